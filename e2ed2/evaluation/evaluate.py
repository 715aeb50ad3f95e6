"""One evaluation under any protocol: samples to a folder, by one process or many, then every metric.

What `e2ed2 evaluate`, a training and a notebook call.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from e2ed2.evaluation.asked import Asked, facts_sha256
from e2ed2.evaluation.measurement import Measurement
from e2ed2.evaluation.metrics.intervals import Estimate
from e2ed2.evaluation.metrics.neighbourhoods import nearest_training
from e2ed2.evaluation.metrics.table import CHOICE, metric_named
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.evaluation.results import EVALUATION_FILE, keep_result, read_result, sampling_environment
from e2ed2.sampling.finished_images import finished_images, images_of_prompts, name_images
from e2ed2.sampling.folder import (
    Keep,
    check_batch_size,
    claim_folder,
    image_files,
    make_files,
    put_away,
    read_png,
    save_images,
)
from e2ed2.sampling.label import UNLABELLED, Label
from e2ed2.sampling.model import LoadedModel, load_model
from e2ed2.system.drawing.pictures import labelled_grid, png_bytes
from e2ed2.system.environment import device_name
from e2ed2.system.errors import UserError, check_range
from e2ed2.system.files import write_file
from e2ed2.system.processes import Share, join_processes
from e2ed2.system.watch import Watch, silent

NUM_NEAREST = 12  # samples shown beside their nearest training image
MAX_SEED = 1_000_000
DEFAULT_OUT = Path("runs/evaluations")

About = dict[str, Any]  # what a result says of how its images came about


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
    label: Label = UNLABELLED,
) -> dict[str, Any] | None:
    """Sample a model to files and measure them, or measure images that something else made.

    Under `accelerate launch` each process makes its share of samples and features; the first measures, the others get
    None.

    Args:
        model: a model folder, a bundled model, a hub id or a baseline; a folder of images, one for each prompt in the
            order of their paths, or one of ours in the order of its manifest; or a floor of the protocol.
        protocol: one that ships, or a YAML file. Those of the emoji benchmark are there once
            `e2ed2.emoji.protocols` is imported.
        steps: sampler steps, None for what the model was made for.
        num_images: None for the protocol's own number.
        seed: another one gives every image another noise.
        out: keeps samples, features and the result; run again, only what is missing is made. None for a folder under
            `runs/evaluations` that is named after protocol, model and what is not the default.
        data: the folder that a protocol's paths are relative to.
        keep: the images once they are measured: as they are, as WebDataset shards, or not.
        share: of the work; None shares it among the processes of `accelerate launch`.
        label: of the images that are made; one that leaves their pixels alone, for these are measured.
    Returns:
        The result, `results.Result` as plain values; None in the processes that only help.
    Raises:
        UserError: something is missing, unreadable, out of range, or does not go together.
    """
    check_range("--seed", seed, 0, MAX_SEED)
    check_batch_size(batch_size)
    asked = read_protocol(protocol).load(protocol, num_images, data, watch)
    share = share or join_processes()
    watch = watch if share.rank == 0 else silent
    folder = finished_images(model)
    if model in asked.floors or folder is not None:
        _check_finished(model, steps, keep)
        asked, about, files, out = _finished(model, folder, asked, out)
        real_sha256 = _real_sha256(asked, watch)
    else:
        loaded = _loaded(model, steps, asked, watch)
        out = out or _default_out(model, loaded.sha256, asked, steps, seed)
        claim_folder(out, EVALUATION_FILE)
        real_sha256 = _real_sha256(asked, watch)
        if (before := _measured_before(loaded, asked, real_sha256, seed, label, out)) is not None:
            return before if share.rank == 0 else None
        _check_size(loaded, asked, seed, label, out)
        # what this refuses, it refuses before sampling; its networks then make room for the sampler
        Measurement(asked, real_sha256, out, watch).store_share(share)
        about, files = _sampled(loaded, asked, batch_size, seed, out, share, label, watch)
    measurement = Measurement(asked, real_sha256, out, watch, files)
    if share.world > 1:
        measurement.store_share(share)
        share.leave()
    if share.rank > 0:
        return None
    result, metrics = _measured(about, measurement, out, watch)
    keep_result(result, metrics, out)
    put_away(out, asked.requests(seed), files, keep)
    return result


def check_protocol(protocol: str, num_images: int | None, data: Path | None, watch: Watch = silent) -> list[str]:
    """Everything that can be checked before a model is there; returns the names of the protocol's metrics.

    Raises:
        UserError: as `evaluate` would.
    """
    return read_protocol(protocol).load(protocol, num_images, data, watch).metrics


def _default_out(model: str, sha256: str, asked: Asked, steps: int | None, seed: int) -> Path:
    """`coco30k/model-1a2b3c4d`, then what was asked that is not the default: `-4-steps-seed-1-500-images`."""
    parts = [Path(model).resolve().name, sha256[:8]]
    parts += [f"{steps}-steps"] if steps else []
    parts += [f"seed-{seed}"] if seed else []
    count = len(asked.prompts)
    parts += [f"{count}-images"] if count != asked.protocol.default_num_images else []
    return DEFAULT_OUT / Path(asked.name).stem / "-".join(parts)


def _real_sha256(asked: Asked, watch: Watch) -> dict[str, str]:
    watch("hashing real images", 0, 0)
    return {kind: real.images.sha256() for kind, real in asked.real.items()}


def _check_finished(model: str, steps: int | None, keep: Keep) -> None:
    """Raise UserError where something is asked of images that are there that only a model can do."""
    if steps is not None:
        raise UserError(f"--steps {steps}: '{model}' has no sampler; leave it out")
    if keep != "files":
        raise UserError(f"--keep {keep}: the images of {model} are not ours to move; leave it out")


def _loaded(model: str, steps: int | None, asked: Asked, watch: Watch) -> LoadedModel:
    watch(f"loading {model}", 0, 0)
    loaded = load_model(model, steps)
    if asked.of_classes and not loaded.has_classes:
        raise UserError(f"--protocol {asked.name}: asks for classes by their numbers; {model} draws from captions")
    return loaded


def _finished(
    model: str, folder: Path | None, asked: Asked, out: Path | None
) -> tuple[Asked, About, list[Path], Path]:
    """Images that are there, a floor's or a folder's: what they are asked, what a result says of them, their files."""
    whole, rate = asked, None
    if folder is None:
        floor = asked.floors[model]()
        asked, rate = floor.asked, floor.images_per_second
    out = out or _default_out(model, facts_sha256({"path": str(Path(model).resolve())}), whole, None, 0)
    claim_folder(out, EVALUATION_FILE)
    if folder is None:
        files = save_images(out, model, floor.images, asked.prompts)
    else:
        files = images_of_prompts(model, folder, asked.prompts)
        name_images(out, model, files, asked.prompts)
    command = f"e2ed2 evaluate {model} --protocol {asked.name} --num-images {len(whole.prompts)}"
    return asked, {"model": model, "nfe": 0, "images_per_second": rate, "command": command}, files, out


def _measured_before(
    loaded: LoadedModel, asked: Asked, real_sha256: Mapping[str, str], seed: int, label: Label, out: Path
) -> dict[str, Any] | None:
    """The result of an earlier run whose images were packed or removed; None where there is none of the same."""
    files = image_files(loaded, asked.requests(seed), out, label)
    if not (out / EVALUATION_FILE).exists() or any(file.exists() for file in files):
        return None
    try:
        result = read_result(out / EVALUATION_FILE)
    except UserError:
        return None
    facts = asked.protocol.facts(asked, real_sha256, _formats(files))
    same = facts.items() <= result.get("protocol_facts", {}).items()
    same = same and result.get("networks") == asked.protocol.networks.model_dump()
    of_model = (result.get("model_sha256"), result["nfe"], result.get("seed"))
    is_whole = list(dict.fromkeys(name.partition("/")[0] for name in result["metrics"])) == asked.metrics
    return result if same and is_whole and of_model == (loaded.sha256, loaded.sampler.nfe, seed) else None


def _check_size(loaded: LoadedModel, asked: Asked, seed: int, label: Label, out: Path) -> None:
    """Raise UserError where the model makes images that would have to be enlarged."""
    size, request = asked.protocol.images.size, asked.requests(seed)[0]
    if size is None:
        return
    image = read_png(image_files(loaded, [request], out, label)[0])
    image = loaded.sampler([request], 1)[0] if image is None else image
    height, width = image.shape[1:]
    if min(height, width) < size:
        what = f"makes images of {width}x{height} pixels, but the protocol measures at {size} and enlarges none"
        raise UserError(f"model {loaded.name}: {what}; choose a protocol of smaller images")


def _sampled(
    loaded: LoadedModel, asked: Asked, batch_size: int, seed: int, out: Path, share: Share, label: Label, watch: Watch
) -> tuple[About, list[Path]]:
    """What a result says of the model, and the images that all processes have made."""
    model, requests = loaded.name, asked.requests(seed)
    progress = partial(watch, f"{model}, {loaded.num_inference_steps} steps: sampling")
    made = make_files(loaded, requests, out, batch_size=batch_size, progress=progress, share=share, label=label)
    about = {
        "model": model,
        "nfe": loaded.sampler.nfe,
        "num_parameters": loaded.num_parameters,
        "images_per_second": made.images_per_second,
        "seed": seed,
        "model_sha256": loaded.sha256,
        "environment": sampling_environment(loaded.sampler.dtype, batch_size, share.world),
        "command": f"e2ed2 evaluate {model} --protocol {asked.name} --steps {loaded.num_inference_steps} "
        f"--num-images {len(requests)} --seed {seed}",
    }
    return about, made.files


def _measured(about: About, m: Measurement, out: Path, watch: Watch) -> tuple[dict[str, Any], dict[str, Estimate]]:
    asked, metrics = m.asked, dict[str, Estimate]()
    for name in asked.metrics:
        metrics |= metric_named(name).measure(name, m)
        watch(f"{name} measured", 0, 0)
    if "authenticity" in metrics:
        write_file(out / "nearest_training.png", png_bytes(labelled_grid(_nearest_training(m))))
    facts = asked.protocol.facts(asked, m.sha256, _formats(m.samples.paths))
    facts |= asked.protocol.network_facts(m.networks)
    result = {
        **about,
        "protocol": Path(asked.name).stem,
        "protocol_sha256": facts_sha256(facts),
        "num_images": len(asked.prompts),
        "reference": asked.reference,
        "metrics": {name: estimate.to_json() for name, estimate in metrics.items()},
        "notes": asked.notes,
        "device": device_name(),
        "networks": asked.protocol.networks.model_dump(),
        "protocol_facts": facts,
    }
    return result, metrics


def _nearest_training(m: Measurement) -> dict[str, list[tuple[str, Tensor]]]:
    """The samples that are nearest to a training image, and those images: columns of `pictures.labelled_grid`."""
    ratios, rows = nearest_training(m.features("samples", CHOICE), m.features("training", CHOICE))
    first = ratios.argsort()[:NUM_NEAREST].tolist()
    labels = [f"{ratios[i]:.2f}: {m.prompts[i]}" for i in first]
    training = m.asked.real["training"].images
    columns = {
        "sample": [m.samples.read(i) for i in first],
        "nearest training image": [training.read(int(rows[i])) for i in first],
    }
    return {name: list(zip(labels, images, strict=True)) for name, images in columns.items()}


def _formats(files: list[Path]) -> str:
    """Of image files: what a lossy one leaves is in the figures."""
    return "+".join(sorted({file.suffix.lower().lstrip(".").replace("jpeg", "jpg") for file in files}))
