"""One evaluation under an emoji protocol: its prompts, a model's samples (or a floor's images), metrics."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2ed2.emoji.dataset import load_emoji, styled_caption
from e2ed2.emoji.protocols import EmojiBenchmark, emoji_protocol, load_protocol
from e2ed2.evaluation.features.efficientnet import EfficientNetFeatures, cached_features
from e2ed2.evaluation.metrics.emoji_metrics import ReferenceSet, evaluate_images, style_shares
from e2ed2.evaluation.metrics.intervals import Estimate
from e2ed2.evaluation.results import EVALUATION_FILE, emoji_sha256, keep_result, sampling_environment
from e2ed2.models.autoencoder import decode_all, encode_all
from e2ed2.models.folders.bundled import AUTOENCODER, resolve_model
from e2ed2.models.folders.pipeline import load_autoencoder
from e2ed2.sampling.samples import (
    MAX_SEED,
    check_range,
    claim_folder,
    device_name,
    load_model,
    make_samples,
    save_images,
)
from e2ed2.system.watch import Watch, silent

FLOORS = ("real", "autoencoder")
FEATURES_NAME = "EfficientNet-lite0"


def evaluate_emoji(
    model: str,
    protocol: str = "emoji",
    *,
    steps: int | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    out: Path | None = None,
    watch: Watch = silent,
) -> dict[str, Any]:
    """Sample a model under a protocol and measure it.

    Args:
        model: a model folder or a bundled model's name.
        steps: sampler steps, None for what the model was made for.
        num_images: None for the protocol's own number.
        seed: another one gives every image another noise.
        out: a folder that keeps samples, `grid.png` and `evaluation.json`; run again, it only makes what is missing.
    Returns:
        `model`, `protocol`, `nfe`, `num_images`, `reference`, `metrics` (each with `value`, `low`, `high`),
        `images_per_second`, and what is needed to measure it again.
    Raises:
        UserError: unknown model or protocol, numbers out of range, `out` not writable.
    """
    check_range("--seed", seed, 0, MAX_SEED)
    asked = load_emoji_protocol(protocol, num_images, watch)
    if out:
        claim_folder(out, EVALUATION_FILE)
    watch(f"loading {model}", 0, 0)
    loaded = load_model(model, steps)
    extract, reference = _reference(asked, watch)  # what is missing for it is said before an image is made
    label = f"{model}, {loaded.num_inference_steps} steps"
    requests = asked.requests(seed)
    progress = partial(watch, f"{label}: sampling")
    samples = make_samples(loaded, requests, out, batch_size=batch_size, progress=progress)
    prompts = [r.prompt for r in requests]
    measured, metrics = _measure(samples.images, prompts, asked, extract, reference, label, watch)
    result = {
        "model": model,
        "protocol": protocol,
        "nfe": loaded.sampler.nfe,
        **measured,
        "images_per_second": samples.images_per_second,
        "device": device_name(),
        "seed": seed,
        "model_sha256": loaded.sha256,
        "num_parameters": loaded.num_parameters,
        "environment": sampling_environment(loaded.sampler.dtype, batch_size, 1),
        "command": f"e2ed2 evaluate {model} --protocol {protocol} --steps {loaded.num_inference_steps} "
        f"--num-images {asked.num_images} --seed {seed}",
    }
    return _kept(result, metrics, out)


def evaluate_floor(
    kind: str,
    protocol: str = "emoji",
    *,
    num_images: int | None = None,
    out: Path | None = None,
    watch: Watch = silent,
) -> dict[str, Any]:
    """What no model can be expected to beat: real images of the prompts, or what the autoencoder keeps of them.

    One image per prompt, whatever the protocol's samples per prompt, so that there is no `spread`.

    Args:
        kind: `real`, or `autoencoder` for reconstructions by the bundled one.
        num_images: as for a model, so that both are asked the same prompts.
    """
    whole = load_emoji_protocol(protocol, num_images, watch)
    asked, rate = (_own_left_out(whole), None) if kind == "real" else (whole, None)
    images = asked.prompt_images
    if kind == "autoencoder":
        images, rate = _reconstruct(images)
    if out:
        claim_folder(out, EVALUATION_FILE)
        save_images(out, kind, images, asked.prompts)
    extract, reference = _reference(asked, watch)
    measured, metrics = _measure(images, asked.prompts, asked, extract, reference, f"{kind} images", watch)
    result = {
        "model": kind,
        "protocol": protocol,
        "nfe": 0,
        **measured,
        "images_per_second": rate,
        "device": device_name(),
        "command": f"e2ed2 evaluate {kind} --protocol {protocol} --num-images {whole.num_images}",
    }
    return _kept(result, metrics, out)


def load_emoji_protocol(name: str, num_images: int | None, watch: Watch = silent) -> EmojiBenchmark:
    """`emoji.load_protocol`; the first time all images are drawn."""
    load_emoji(emoji_protocol(name).emoji.split, partial(watch, "rendering emoji"))
    return load_protocol(name, num_images)


def _measure(
    images: Tensor,
    prompts: list[str],
    asked: EmojiBenchmark,
    extract: EfficientNetFeatures,
    reference: ReferenceSet,
    label: str,
    watch: Watch,
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    features = extract(images, partial(watch, f"{label}: features"))
    watch(f"{label}: metrics", 0, 0)
    metrics = evaluate_images(images, prompts, reference, features)
    if asked.name == "emoji-anystyle":
        shares = style_shares(features, reference.features, asked.reference_styles, prompts)
        metrics |= {f"style_share/{style}": share for style, share in shares.items()}
    result = {
        "num_images": len(images),
        "reference": asked.reference,
        "metrics": {name: estimate.to_json() for name, estimate in metrics.items()},
        "features": {"name": FEATURES_NAME, "sha256": extract.weights_sha256},
    }
    return result, metrics


def _reference(asked: EmojiBenchmark, watch: Watch) -> tuple[EfficientNetFeatures, ReferenceSet]:
    """The features' network and the protocol's reference.

    Features are measured once for the whole split, whatever part of it is asked for.
    """
    extract = EfficientNetFeatures("cuda" if torch.cuda.is_available() else "cpu")
    data = load_emoji(emoji_protocol(asked.name).emoji.split)
    features = cached_features(data.images, extract, partial(watch, "real images: features, kept for next time"))
    names = set(asked.reference_groups)
    rows = [i for i, name in enumerate(data.names) if name in names]
    assert [data.names[i] for i in rows] == asked.reference_groups
    return extract, ReferenceSet(data.images[rows], features[rows], asked.reference_groups)


def _kept(result: dict[str, Any], metrics: dict[str, Estimate], out: Path | None) -> dict[str, Any]:
    result = {**result, "protocol_sha256": emoji_sha256(result)}
    if out:
        keep_result(result, metrics, out)
    return result


def _reconstruct(images: Tensor) -> tuple[Tensor, float]:
    """(uint8 images decoded from their own latents, images per second) by the bundled autoencoder."""
    autoencoder = load_autoencoder(resolve_model(AUTOENCODER))
    started = time.perf_counter()
    with torch.inference_mode():
        decoded = decode_all(autoencoder, encode_all(autoencoder, images))
    return decoded, len(images) / (time.perf_counter() - started)


def _own_left_out(asked: EmojiBenchmark) -> EmojiBenchmark:
    """A protocol whose prompts' real images are not in its own reference: a copy of a reference image is no floor.

    Where they are (`emoji-heldout`, which has no other images), half of the emoji are asked and the other half are
    the reference.
    """
    styles = zip(asked.reference_groups, asked.reference_styles, strict=True)
    own = {styled_caption(name, style): name for name, style in styles}
    if not own.keys() & set(asked.prompts):
        return asked
    half = set(sorted(set(own.values()))[::2])
    rows = [i for i, prompt in enumerate(asked.prompts) if own[prompt] in half]
    others = [i for i, name in enumerate(asked.reference_groups) if name not in half]
    return replace(
        asked,
        prompts=[asked.prompts[i] for i in rows],
        prompt_images=asked.prompt_images[rows],
        reference_images=asked.reference_images[others],
        reference_groups=[asked.reference_groups[i] for i in others],
        reference_styles=[asked.reference_styles[i] for i in others],
        reference=f"emoji heldout, {len(others)} images of the other half of the emoji",
    )
