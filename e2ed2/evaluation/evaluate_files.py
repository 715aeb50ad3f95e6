"""One evaluation under a protocol over files: samples to a folder, by one process or many, then every metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from e2ed2.evaluation.features.extractors import Extractor
from e2ed2.evaluation.features.image_set import ImageSet, list_images
from e2ed2.evaluation.metrics.intervals import Estimate
from e2ed2.evaluation.metrics.measures import ImageSets, Measurement, check_counts, measure_named
from e2ed2.evaluation.protocols import FileProtocol, Reference, read_prompts, read_protocol, resolve
from e2ed2.evaluation.results import EVALUATION_FILE, facts_sha256, keep_result, read_result, sampling_environment
from e2ed2.reports.grids import comparison_grid
from e2ed2.sampling.finished_images import finished_images, images_of_prompts
from e2ed2.sampling.generate import Request
from e2ed2.sampling.sample_files import Keep, finish_files, make_files, put_away
from e2ed2.sampling.samples import (
    MAX_SEED,
    LoadedModel,
    check_range,
    claim_folder,
    device_name,
    image_files,
    load_model,
    read_png,
    write_manifest,
)
from e2ed2.system.errors import UserError
from e2ed2.system.files import write_file
from e2ed2.system.pictures import png_bytes
from e2ed2.system.processes import Share, join_processes
from e2ed2.system.watch import Watch, silent

NUM_NEAREST = 12  # samples shown beside their nearest training image
DEFAULT_OUT = Path("runs/evaluations")


@dataclass(frozen=True)
class Asked:
    """What a protocol asks on this machine: one prompt for each image, and the real images.

    Attributes:
        notes: on metrics that so few images say little of.
    """

    name: str
    protocol: FileProtocol
    prompts: list[str]
    real: dict[str, ImageSet]
    notes: list[str]

    def requests(self, seed: int) -> list[Request]:
        """Image i has seed `seed` 1,000,000 + i; samples of a prompt are adjacent."""
        return [Request(prompt, seed * 1_000_000 + i) for i, prompt in enumerate(self.prompts)]


def load_asked(name: str, protocol: FileProtocol, num_images: int | None, data: Path | None) -> Asked:
    """Prompts and real images of a protocol, everything checked that can be before an image is made.

    Raises:
        UserError: something is missing, unreadable or of another number than the protocol says.
    """
    count = protocol.prompts.samples_per_prompt
    prompts = read_prompts(resolve(protocol.prompts.path, name, data), protocol.prompts)
    wanted = len(prompts) * count if num_images is None else num_images
    if wanted % count or not count <= wanted <= len(prompts) * count:
        raise UserError(f"--num-images {wanted}: give a multiple of {count} up to {len(prompts) * count}")
    asked = [prompt for prompt in prompts[: wanted // count] for _ in range(count)]
    if len(set(asked)) < 2:
        raise UserError(f"--num-images {wanted}: the intervals need at least 2 different prompts")
    real = {"reference": _image_set("reference", protocol.reference, name, protocol, data)}
    if protocol.training:
        real["training"] = _image_set("training", protocol.training, name, protocol, data)
    counts = {"samples": wanted} | {kind: len(images) for kind, images in real.items()}
    return Asked(name, protocol, asked, real, check_counts(protocol, counts))


def evaluate_files(
    model: str,
    protocol: str,
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
    """Sample a model to files and measure them, or measure a folder of images that something else made.

    Under `accelerate launch` each process makes its share of samples and features; the first measures, the others get
    None.

    Args:
        model: a model, a baseline, or a folder of images, one for each prompt in the order of their paths; one of ours
            in the order of its manifest.
        protocol: a shipped protocol over files, or a YAML file.
        out: keeps samples, features and the result; run again, only what is missing is made. None for a folder under
            `runs/evaluations` that is named after protocol, model and what is not the default.
        data: the folder that a protocol's paths are relative to.
    Returns:
        As `evaluate_emoji`, with `notes` on metrics that so few images say little of.
    """
    check_range("--seed", seed, 0, MAX_SEED)
    spec = read_protocol(protocol)
    assert isinstance(spec, FileProtocol)
    asked = load_asked(protocol, spec, num_images, data)
    share = share or join_processes()
    watch = watch if share.rank == 0 else silent
    if (folder := finished_images(model)) is not None:
        if keep != "files":
            raise UserError(f"--keep {keep}: the images of {model} are not ours to move; leave it out")
        out = out or _default_out(model, facts_sha256({"path": str(folder.resolve())}), asked, None, 0)
        claim_folder(out, EVALUATION_FILE)
        about, files = _found(model, folder, asked, out)
        measurement = _measurement(asked, _real_sha256(asked, watch), out, watch, files)
    else:
        watch(f"loading {model}", 0, 0)
        loaded = load_model(model, steps)
        out = out or _default_out(model, loaded.sha256, asked, steps, seed)
        claim_folder(out, EVALUATION_FILE)
        real_sha256 = _real_sha256(asked, watch)
        if (before := _measured_before(loaded, asked, real_sha256, seed, out)) is not None:
            return before if share.rank == 0 else None
        _check_size(loaded, asked, seed, out)
        # what this refuses, it refuses before sampling; its networks then make room for the sampler
        _measurement(asked, real_sha256, out, watch).store_share(share)
        about, files = _sampled(loaded, asked, batch_size, seed, out, share, watch)
        measurement = _measurement(asked, real_sha256, out, watch, files)
    if share.world > 1:
        measurement.store_share(share)
        share.leave()
    if share.rank > 0:
        return None
    result, metrics = _measured(about, measurement, asked, watch)
    keep_result(result, metrics, out)
    put_away(out, asked.requests(seed), files, keep)
    return result


def _image_set(kind: str, part: Reference, name: str, protocol: FileProtocol, data: Path | None) -> ImageSet:
    path = resolve(part.path, name, data)
    paths, images = list_images(path, kind), protocol.images
    if part.num_images is not None and len(paths) != part.num_images:
        counts = f"{len(paths)} images, but the protocol's set has {part.num_images}"
        raise UserError(f"{kind} {path}: {counts}; complete it, or mend {kind}.num_images in a copy of the protocol")
    return ImageSet(paths, kind, images.size, images.resample, images.enlarge_reference)


def _default_out(model: str, sha256: str, asked: Asked, steps: int | None, seed: int) -> Path:
    """`coco30k/model-1a2b3c4d`, then what was asked that is not the default: `-4-steps-seed-1-500-images`."""
    parts = [Path(model).resolve().name, sha256[:8]]
    parts += [f"{steps}-steps"] if steps else []
    parts += [f"seed-{seed}"] if seed else []
    prompts = asked.protocol.prompts
    count = len(asked.prompts)
    parts += [f"{count}-images"] if count != prompts.num * prompts.samples_per_prompt else []
    return DEFAULT_OUT / Path(asked.name).stem / "-".join(parts)


def _real_sha256(asked: Asked, watch: Watch) -> dict[str, str]:
    watch("hashing real images", 0, 0)
    return {kind: images.sha256() for kind, images in asked.real.items()}


def _found(model: str, folder: Path, asked: Asked, out: Path) -> tuple[dict[str, Any], list[Path]]:
    """What a result says of a folder of images, and the images."""
    files = images_of_prompts(model, folder, asked.prompts)
    rows = [{"file": str(f.resolve()), "prompt": p, "seed": None} for f, p in zip(files, asked.prompts, strict=True)]
    write_manifest(out, {"model": model}, rows)
    command = f"e2ed2 evaluate {model} --protocol {asked.name} --num-images {len(files)}"
    return {"model": model, "nfe": 0, "images_per_second": None, "command": command}, files


def _measured_before(
    loaded: LoadedModel, asked: Asked, real_sha256: dict[str, str], seed: int, out: Path
) -> dict[str, Any] | None:
    """The result of an earlier run whose images were packed or removed; None where there is none of the same."""
    files = image_files(loaded, asked.requests(seed), out)
    if not (out / EVALUATION_FILE).exists() or any(file.exists() for file in files):
        return None
    result = read_result(out / EVALUATION_FILE)
    facts = _facts(asked, real_sha256, files, {})
    same = {**result.get("protocol_facts", {}), "networks": {}} == facts
    same = same and result.get("networks") == asked.protocol.networks.model_dump()
    of_model = (result.get("model_sha256"), result["nfe"], result.get("seed"))
    is_whole = list(result["metrics"]) == asked.protocol.metrics
    return result if same and is_whole and of_model == (loaded.sha256, loaded.sampler.nfe, seed) else None


def _check_size(loaded: LoadedModel, asked: Asked, seed: int, out: Path) -> None:
    """Raise UserError where the model makes images that would have to be enlarged."""
    size, request = asked.protocol.images.size, asked.requests(seed)[0]
    if size is None:
        return
    image = read_png(image_files(loaded, [request], out)[0])
    image = loaded.sampler([request], 1)[0] if image is None else image
    height, width = image.shape[1:]
    if min(height, width) < size:
        what = f"makes images of {width}x{height} pixels, but the protocol measures at {size} and enlarges none"
        raise UserError(f"model {loaded.name}: {what}; choose a protocol of smaller images")


def _sampled(
    loaded: LoadedModel, asked: Asked, batch_size: int, seed: int, out: Path, share: Share, watch: Watch
) -> tuple[dict[str, Any], list[Path]]:
    """What a result says of the model, and the images that all processes have made."""
    model = loaded.name
    requests = asked.requests(seed)
    progress = partial(watch, f"{model}: sampling")
    made = make_files(loaded, requests, out, batch_size=batch_size, progress=progress, share=share)
    share.wait()
    if share.rank == 0:
        finish_files(loaded, requests, out, made)
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


def _measurement(
    asked: Asked, real_sha256: dict[str, str], out: Path, watch: Watch, files: list[Path] | None = None
) -> Measurement:
    """Of the samples and the real images, or of the latter alone."""
    protocol, sets, sha256 = asked.protocol, dict(asked.real), dict(real_sha256)
    if files is not None:
        watch("hashing images", 0, 0)
        sets["samples"] = ImageSet(files, "samples", protocol.images.size, protocol.images.resample)
        sha256["samples"] = sets["samples"].sha256()
    images = ImageSets(sets, sha256, asked.prompts, out)
    return Measurement(protocol, images, watch, "cuda" if torch.cuda.is_available() else "cpu")


def _measured(
    about: dict[str, Any], measurement: Measurement, asked: Asked, watch: Watch
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    protocol, images = asked.protocol, measurement.images
    metrics: dict[str, Estimate] = {}
    for name in protocol.metrics:
        metrics[name] = measure_named(name)(measurement)
        watch(f"{name} measured", 0, 0)
    if "authenticity" in metrics:
        grid = comparison_grid(measurement.nearest_training(NUM_NEAREST))
        write_file(images.out / "nearest_training.png", png_bytes(grid))
    facts = _facts(asked, images.sha256, images.sets["samples"].paths, measurement.networks)
    size = f" at {protocol.images.size} px" if protocol.images.size else ""
    reference = f"{len(asked.real['reference'])} real images{size}"
    result = {
        **about,
        "protocol": Path(asked.name).stem,
        "protocol_sha256": facts_sha256(facts),
        "num_images": len(asked.prompts),
        "reference": reference,
        "metrics": {name: estimate.to_json() for name, estimate in metrics.items()},
        "notes": asked.notes,
        "device": device_name(),
        "networks": protocol.networks.model_dump(),
        "protocol_facts": facts,
    }
    return result, metrics


def _facts(
    asked: Asked, sha256: Mapping[str, str], files: Sequence[Path], networks: Mapping[str, Extractor]
) -> dict[str, Any]:
    """All that must be equal for two figures to be comparable; the seed of the noise is not among it.

    Args:
        files: of the samples, whose format counts: what a lossy one leaves is in the figures.
    """
    formats = {file.suffix.lower().lstrip(".").replace("jpeg", "jpg") for file in files}
    return {
        "prompts_sha256": facts_sha256({"prompts": asked.prompts}),
        "num_images": len(asked.prompts),
        "samples_per_prompt": asked.protocol.prompts.samples_per_prompt,
        "images": {"format": "+".join(sorted(formats)), **asked.protocol.images.model_dump()},
        "real_sha256": {kind: sha256[kind] for kind in asked.real},
        "clip_prefix": asked.protocol.networks.clip_prefix,
        "networks": {name: [n.name, n.weights_sha256] for name, n in sorted(networks.items())},
    }
