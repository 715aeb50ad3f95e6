"""The Inception network of FID: the layout of the published weights, and the first FID code's resizing."""

import numpy as np
import pytest
import torch

from e2ed2.evaluation.features import inception as inc
from e2ed2.system.errors import UserError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return inc.Inception().eval()


def test_tensors_are_those_of_the_published_file(network):
    """94 normalised convolutions and a classifier of 1008."""
    state = network.state_dict()
    assert sum("conv.weight" in name for name in state) == 94
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert state["Mixed_6b.branch7x7dbl_2.conv.weight"].shape == (128, 128, 7, 1)
    assert state["fc.weight"].shape == (1008, 2048)


def test_same_features_as_torch_fidelity(network, tmp_path):
    """Whenever torch-fidelity can be imported; random weights, its own file format."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    images = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
    reference = theirs.FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    with torch.inference_mode():
        found = inc.load_inception(str(tmp_path / "weights.pth"))((inc.tensorflow_resize(images.float()) - 128) / 128)
        assert torch.allclose(found, reference(images)[0], rtol=1e-5, atol=1e-6)


def test_resize_by_hand():
    """Two pixels 0 and 4 to four: source positions 0, 0.5, 1, 1.5, the last held."""
    image = torch.tensor([[0.0, 4.0], [0.0, 4.0]])[None, None]
    assert inc.tensorflow_resize(image, 4)[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 4.0]
    assert torch.equal(inc.tensorflow_resize(image, 2), image)


def test_missing_or_other_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.pth: cannot be loaded.*fetch https://"):
        inc.load_inception(str(tmp_path / "none.pth"))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth: cannot be loaded"):
        inc.load_inception(str(tmp_path / "other.pth"))


def test_a_pickle_is_not_run(tmp_path):
    import pickle

    (tmp_path / "code.pth").write_bytes(pickle.dumps(np.array))
    with pytest.raises(UserError, match="cannot be loaded"):
        inc.load_inception(str(tmp_path / "code.pth"))
