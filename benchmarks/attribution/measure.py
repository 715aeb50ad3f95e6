"""A model's figures on unseen and on seen captions, in two networks that no loss has seen."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from benchmarks.attribution.settings import Setting
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.protocols import FOLDERS
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.system.files import write_file

UNSEEN, SEEN = ("emoji-unseen", 608), ("emoji", 512)  # protocol and images
METRICS = ["kernel_distance", "alignment", "recall", "spread"]
NETWORKS = {  # name in the results -> what a protocol says of it; alignment looks through EfficientNet alone
    "EfficientNet-lite0": {"networks": {"features": "efficientnet"}, "metrics": METRICS},
    "ResNet-50": {"networks": {"features": "resnet"}, "metrics": [name for name in METRICS if name != "alignment"]},
}


def measured(model: str, setting: Setting, seed: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each number of steps, kind of captions and network."""
    asked = [("unseen", *UNSEEN), ("seen", *SEEN)]
    if setting.style is not None:
        asked = [("unseen", f"{setting.style}-heldout", None)]
    if setting.call:
        model = str(called(model, setting.call, folder / "model"))
    return [
        row
        for captions, protocol, num_images in asked
        for steps in setting.steps
        for row in _rows(model, steps, (captions, protocol, num_images), seed, folder / f"{protocol}-{steps}")
    ]


def _rows(
    model: str, steps: int, asked: tuple[str, str, int | None], seed: int, images: Path
) -> Iterator[dict[str, Any]]:
    """A row for each network; the second sees the images that were made for the first."""
    captions, protocol, num_images = asked
    nfe = None
    for network, told in NETWORKS.items():
        file = _written(protocol, told, images.with_name(f"{protocol}-{network}.yaml"))
        of: dict[str, Any] = {"num_images": num_images, "seed": seed}
        if nfe is None:
            result = evaluate(model, str(file), steps=steps, out=images, **of)
        else:
            result = evaluate(str(images), str(file), out=images.with_name(f"{images.name}-{network}"), **of)
        assert result is not None
        nfe = nfe or result["nfe"]
        figures = {name: result["metrics"][name] for name in told["metrics"]}
        yield {"nfe": nfe, "captions": captions, "network": network, "protocol": protocol,
               "num_images": result["num_images"], **figures}  # fmt: skip


def called(model: str, call: Mapping[str, Any], folder: Path) -> Path:
    """A copy of a model that is sampled in another way."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(resolve_model(model), folder, ignore=shutil.ignore_patterns("evaluation"))
    file = folder / "inference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(call)))
    return folder


def _written(protocol: str, told: Mapping[str, Any], file: Path) -> Path:
    """A shipped protocol with these figures alone."""
    path = next(path for shipped in FOLDERS if (path := shipped / f"{protocol}.yaml").is_file())
    write_file(file, yaml.safe_dump(yaml.safe_load(path.read_text()) | dict(told)).encode())
    return file
