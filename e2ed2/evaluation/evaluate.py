"""One evaluation under any protocol: what `e2ed2 evaluate`, a training and a notebook call."""

from pathlib import Path
from typing import Any

from e2ed2.emoji.evaluate_emoji import FLOORS, evaluate_emoji, evaluate_floor, load_emoji_protocol
from e2ed2.evaluation.evaluate_files import evaluate_files, load_asked
from e2ed2.evaluation.protocols import FileProtocol, read_protocol
from e2ed2.reports.table import METRICS
from e2ed2.sampling.finished_images import finished_images
from e2ed2.sampling.sample_files import Keep
from e2ed2.system.errors import UserError
from e2ed2.system.processes import Share
from e2ed2.system.watch import Watch, silent


def evaluate(
    model: str,
    protocol: str = "emoji",
    *,
    steps: int | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    out: Path | None = None,
    data: Path | None = None,
    keep: Keep = "files",
    share: Share | None = None,
    watch: Watch = silent,
) -> dict[str, Any] | None:
    """Sample a model under a protocol and measure it; for the arguments see `evaluate_emoji` and `evaluate_files`.

    Args:
        model: or a floor of the emoji protocols (`real`, `autoencoder`), or a folder of images (protocols over files).
        share: of the sampling; None shares it among the processes of `accelerate launch` (protocols over files).
    Returns:
        The result; None in the processes that only sample.
    Raises:
        UserError: an argument that this protocol or model does not take, or what the two above raise.
    """
    if isinstance(read_protocol(protocol), FileProtocol):
        return evaluate_files(
            model, protocol, steps=steps, num_images=num_images, batch_size=batch_size, seed=seed, out=out, data=data,
            keep=keep, share=share, watch=watch,
        )  # fmt: skip
    if keep != "files":
        raise UserError(f"--keep {keep}: protocol {protocol} is of few images, which stay; leave it out")
    _refuse_data(protocol, data)
    if finished_images(model) is not None:
        raise UserError(f"{model}: no model, and protocol {protocol} samples one; for images give one over files")
    if model not in FLOORS:
        return evaluate_emoji(
            model, protocol, steps=steps, num_images=num_images, batch_size=batch_size, seed=seed, out=out, watch=watch
        )
    if steps is not None:
        raise UserError(f"--steps {steps}: '{model}' has no sampler; leave it out")
    return evaluate_floor(model, protocol, num_images=num_images, out=out, watch=watch)


def check_protocol(protocol: str, num_images: int | None, data: Path | None, watch: Watch = silent) -> list[str]:
    """Everything that can be checked before a model is there; returns the names of the protocol's metrics.

    Raises:
        UserError: as `evaluate` would.
    """
    spec = read_protocol(protocol)
    if isinstance(spec, FileProtocol):
        load_asked(protocol, spec, num_images, data)
        return spec.metrics
    _refuse_data(protocol, data)
    load_emoji_protocol(protocol, num_images, watch)
    return list(METRICS)


def _refuse_data(protocol: str, data: Path | None) -> None:
    if data is not None:
        raise UserError(f"--data {data}: protocol {protocol} brings its own data; leave it out")
