"""A model's figures on unseen and on seen captions, in two networks that no loss has seen."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from benchmarks.attribution.settings import Setting
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.protocols import FOLDERS
from e2ed2.models.folders.bundled import resolve_model

UNSEEN, SEEN = ("emoji-unseen", 608), ("emoji", 512)  # protocol and images
METRICS = ("kernel_distance", "alignment", "recall", "spread")
OTHER = {"networks": {"features": "resnet"}, "metrics": ["kernel_distance", "recall", "spread"]}


def measured(model: str, setting: Setting, seed: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each number of steps, kind of captions and network."""
    asked = [("unseen", *UNSEEN), ("seen", *SEEN)]
    if setting.style is not None:
        asked = [("unseen", f"{setting.style}-heldout", None)]
    if setting.call:
        model = str(called(model, setting.call, folder / "model"))
    rows = []
    for captions, protocol, num_images in asked:
        for steps in setting.steps:
            out = folder / f"{protocol}-{steps}"
            of = {"num_images": num_images, "seed": seed}
            first = evaluate(model, protocol, steps=steps, out=out, **of)
            second = evaluate(str(out), str(_in_resnet(protocol, folder)), out=folder / f"{out.name}-resnet", **of)
            for network, result in (("EfficientNet-lite0", first), ("ResNet-50", second)):
                assert result is not None
                figures = {name: result["metrics"][name] for name in METRICS if name in result["metrics"]}
                rows.append({"nfe": first["nfe"], "captions": captions, "network": network, "protocol": protocol,
                             "num_images": result["num_images"], **figures})  # fmt: skip
    return rows


def called(model: str, call: Mapping[str, Any], folder: Path) -> Path:
    """A copy of a model that is sampled in another way."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(resolve_model(model), folder, ignore=shutil.ignore_patterns("evaluation"))
    file = folder / "inference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(call)))
    return folder


def _in_resnet(protocol: str, folder: Path) -> Path:
    """A shipped protocol, measured in the other network; alignment looks through EfficientNet alone."""
    path = next(path for shipped in FOLDERS if (path := shipped / f"{protocol}.yaml").is_file())
    file = folder / f"{protocol}-resnet.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | OTHER))
    return file
