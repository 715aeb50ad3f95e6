"""What the network's output means: conversions between x0, noise, velocity and flow, as pure functions.

`epsilon` is the noise; `sample` is x0; `v_prediction` is alpha noise - sigma x0 (arXiv:2202.00512, App. D);
`flow_prediction` is noise - x0, the time derivative of x_t = (1 - t) x0 + t noise (arXiv:2209.03003).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]

# (prediction, x_t, alpha, sigma) -> x0
_TO_X0: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda p, x_t, alpha, sigma: (x_t - sigma * p) / alpha,
    "sample": lambda p, x_t, alpha, sigma: p,
    "v_prediction": lambda p, x_t, alpha, sigma: (alpha * x_t - sigma * p) / (alpha**2 + sigma**2),
    "flow_prediction": lambda p, x_t, alpha, sigma: (x_t - sigma * p) / (alpha + sigma),
}

# (prediction, x_t, alpha, sigma) -> noise
_TO_NOISE: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda p, x_t, alpha, sigma: p,
    "sample": lambda p, x_t, alpha, sigma: (x_t - alpha * p) / sigma,
    "v_prediction": lambda p, x_t, alpha, sigma: (sigma * x_t + alpha * p) / (alpha**2 + sigma**2),
    "flow_prediction": lambda p, x_t, alpha, sigma: (x_t + alpha * p) / (alpha + sigma),
}

# (x0, noise, alpha, sigma) -> prediction
_TARGET: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x0, noise, alpha, sigma: noise,
    "sample": lambda x0, noise, alpha, sigma: x0,
    "v_prediction": lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
    "flow_prediction": lambda x0, noise, alpha, sigma: noise - x0,
}


def to_x0(
    prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: PredictionType
) -> Tensor:
    """The clean-data estimate, shape of x_t. `epsilon` divides by alpha: errors grow by sigma / alpha."""
    return _TO_X0[prediction_type](prediction, x_t, alpha, sigma)


def to_noise(
    prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: PredictionType
) -> Tensor:
    """The noise estimate, shape of x_t. `sample` divides by sigma, so sigma must not be 0."""
    return _TO_NOISE[prediction_type](prediction, x_t, alpha, sigma)


def training_target(
    x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: PredictionType
) -> Tensor:
    """What a denoiser should predict (Eq. 3, 6), shape of x0."""
    return _TARGET[prediction_type](x0, noise, alpha, sigma)
