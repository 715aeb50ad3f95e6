"""One update: micro-batches, backward, clipping, AdamW, EMA; every random number is a function of (seed, step)."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.data.order import Order, mix
from e2ed2.models.memory.activations import offloaded_activations
from e2ed2.objectives.total import total
from e2ed2.recipe.config import TrainConfig
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import NonFiniteError, UserError
from e2ed2.training.cluster.tensors import own
from e2ed2.training.stages.adversary import Adversary


class Stage(Protocol):
    """What the loop asks of a training stage. `weights`: of the loss terms by name, in `total`."""

    network: nn.Module
    weights: dict[str, float]

    @property
    def began_at(self) -> tuple[int, int] | None:
        """Of the last `loss_terms`: how many steps its chain had, and the one it began at, from 0.

        None where all chains are alike.
        """

    @property
    def adversary(self) -> Adversary | None:
        """The discriminator, where the loss has a GAN term."""

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms of the items `rows` [B]; all randomness comes from the CPU `generator`."""

    def preview(self, network: nn.Module) -> Sheet:
        """What the network does on fixed inputs, beside real images; the same network gives the same."""

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the model folder; the network is not trained on afterwards."""


@dataclass(frozen=True)
class Trained:
    """What an update changes."""

    network: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer

    @classmethod
    def begin(cls, network: nn.Module, config: TrainConfig) -> "Trained":
        """A network with its average, which begins as the same, and AdamW."""
        average = get_ema_multi_avg_fn(config.ema_decay)
        ema = AveragedModel(
            network, multi_avg_fn=lambda ema, now, n: average(own(ema), own(now), n), use_buffers=True
        ).eval()
        return cls(network, ema, _adamw(config)(decay_groups(network, config.weight_decay), lr=config.lr))


def _adamw(config: TrainConfig) -> Callable[..., torch.optim.Optimizer]:
    if config.optimizer == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        remedy = "pip install 'e2ed2[large]', or set adamw"
        raise UserError(f"train.optimizer: adamw_8bit needs bitsandbytes, which is not installed: {remedy}") from error
    return AdamW8bit


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups of parameters: matrices and kernels, which decay, then norms and biases, which do not.

    A group that would be empty is left out.
    """
    parameters = list(network.parameters())
    decaying, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def update(
    stage: Stage, trained: Trained, config: TrainConfig, order: Order, step: int, accelerator: Accelerator
) -> dict[str, float]:
    """Update number `step` (0-based), on the next micro-batches of `order`.

    Returns:
        Every loss term unweighted and `total`, means over the processes; `lr`, `grad_norm` (before clipping); and the
        terms by where their chains began, see `_by_start`.
    Raises:
        NonFiniteError: a term or the gradient is not finite; the network was not updated.
    """
    lr = learning_rate(config, step)
    for group in trained.optimizer.param_groups:
        group["lr"] = lr
    num_micro = config.gradient_accumulation_steps
    judged = _update_adversary(stage, trained.network, config, order, step, accelerator)
    sums: dict[str, float] = {}
    chains: list[tuple[tuple[int, int], dict[str, float]]] = []
    for micro in range(num_micro):
        position = (step * num_micro + micro) * accelerator.num_processes + accelerator.process_index
        rows = order.rows(position)
        seed = mix(config.seed, position)
        torch.manual_seed(mix(seed, 0))  # for dropout, which takes no generator
        generator = torch.Generator().manual_seed(seed)
        is_last = micro == num_micro - 1  # before it gradients add up within each process
        with nullcontext() if is_last else accelerator.no_sync(trained.network):
            kept = offloaded_activations() if config.offload_activations else nullcontext()
            with accelerator.autocast(), kept:
                terms = stage.loss_terms(trained.network, trained.ema.module, rows, generator)
            terms["total"] = total(terms, stage.weights)
            values = {name: value.item() for name, value in terms.items()}
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / num_micro
            if stage.began_at is not None:
                chains.append((stage.began_at, values))
            _check_finite(sums, step)
            accelerator.backward(terms["total"] / num_micro)
    grad_norm = float(accelerator.clip_grad_norm_(trained.network.parameters(), config.max_grad_norm))
    if accelerator.scaler is None:
        _check_finite({"grad_norm": grad_norm}, step)
    trained.optimizer.step()  # fp16: skipped when the scaled gradient overflows, and the loss scale is halved
    if accelerator.scaler is not None and accelerator.scaler.get_scale() < 1:  # overflows even unscaled
        _check_finite({"grad_norm": grad_norm}, step)
    trained.optimizer.zero_grad()
    trained.ema.update_parameters(accelerator.unwrap_model(trained.network))
    row = {**_over_processes({**sums, **judged}, accelerator), "lr": lr, "grad_norm": grad_norm}
    return {**row, **_by_start(chains, accelerator)}


def _by_start(
    chains: list[tuple[tuple[int, int], dict[str, float]]], accelerator: Accelerator
) -> dict[str, float]:
    """The terms of an update by where their chains began, on which they depend more than on the update.

    Args:
        chains: of each micro-batch: (number of steps, step it began at, from 0), and the values of its terms.
    Returns:
        `chains/from_2_of_4`: how many chains began at the second of four steps, of all processes; `l2/from_2_of_4`:
        their mean. Starts that were not drawn are left out.
    """
    if not chains:
        return {}
    table = torch.tensor([[*place, *values.values()] for place, values in chains], device=accelerator.device)
    found: dict[tuple[float, float], list[list[float]]] = {}
    for steps, start, *values in accelerator.gather(table).tolist():
        found.setdefault((steps, start), []).append(values)
    row: dict[str, float] = {}
    for (steps, start), drawn in sorted(found.items()):
        place = f"from_{start + 1:.0f}_of_{steps:.0f}"
        means = map(fmean, zip(*drawn, strict=True))
        row |= {f"chains/{place}": len(drawn)}
        row |= {f"{name}/{place}": mean for name, mean in zip(chains[0][1], means, strict=True)}
    return row


def _over_processes(values: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1:
        return values
    own = torch.tensor([*values.values()], device=accelerator.device)
    return dict(zip(values, accelerator.reduce(own, "mean").tolist(), strict=True))


def _update_adversary(
    stage: Stage, network: nn.Module, config: TrainConfig, order: Order, step: int, accelerator: Accelerator
) -> dict[str, float]:
    """The discriminator's updates before update `step` of the sampler, on samples of their own (App. C.2).

    Or on past samples, where it has a buffer of them.
    """
    values: dict[str, float] = {}
    if stage.adversary is None:
        return values
    for i in range(stage.adversary.settings.num_discriminator_updates):
        position = step * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator().manual_seed(mix(mix(config.seed, position), 1 + i))
        rows = order.random_rows(generator)
        torch.manual_seed(mix(mix(config.seed, position), -1 - i))  # for dropout
        with accelerator.autocast():
            terms = stage.adversary.loss_terms(network, rows, generator)
        values = {name: term.item() for name, term in terms.items()}
        _check_finite(values, step)
        stage.adversary.step(terms, accelerator)
    return values


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant, or a half cosine to zero at `max_train_steps`."""
    warmup = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    if config.lr_schedule == "constant":
        return config.lr * warmup
    return config.lr * warmup * 0.5 * (1 + math.cos(math.pi * step / config.max_train_steps))


def _check_finite(values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{name} is {value} at global_step {step + 1}")
