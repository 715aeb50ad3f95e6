"""Networks that images are measured in, behind one interface; each loads when a metric first asks for it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from e2ed2.evaluation.features.efficientnet import EfficientNetFeatures
from e2ed2.evaluation.features.inception import SIDE, load_inception, tensorflow_resize
from e2ed2.evaluation.features.resnet import ResNetFeatures
from e2ed2.system.drawing.pictures import to_picture
from e2ed2.system.errors import UserError, said

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINOV2_SIDE = 224
_TEXT_CHUNK, _ROWS = 256, 1024
_EXACT = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # figures of different machines compare


class Extractor(Protocol):
    """Images -> features. `name` says network and preprocessing; `weights_sha256` is of the network's tensors."""

    name: str
    weights_sha256: str

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Features float32 [N, D] on the CPU of uint8 images [3, H, W], of any size each."""
        ...


class InceptionFeatures:
    """The features of FID and KID, 2048 wide.

    Args:
        clean: resize by antialiased bicubic before the network (Parmar et al. 2022, arXiv:2104.11222), else as the
            first FID code did, where a change of resolution moves the figure.
        spatial: whether the features are those of sFID, 2023 wide.
    """

    def __init__(self, weights: str, clean: bool, device: str = "cpu", spatial: bool = False) -> None:
        network = load_inception(weights)
        which = "inception-2015-12-05" + (" mixed_6" if spatial else "")
        self.name = f"{which}, " + ("clean bicubic 299" if clean else "legacy bilinear 299")
        self.weights_sha256 = tensors_sha256(network)
        self._network, self._clean, self._device = network.to(device), clean, device
        self._spatial = spatial

    @_EXACT
    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Features of images, as in `Extractor`."""
        resize = clean_resize if self._clean else lambda image: tensorflow_resize(image[None].float())[0]
        pixels = torch.stack([resize(image) for image in images])
        pixels = ((pixels - 128) / 128).to(self._device)
        return (self._network.both(pixels)[1] if self._spatial else self._network(pixels)).cpu()

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor:
        """Of the classes that the network knows, [N, 1008] on the CPU, of its features [N, 2048]."""
        parts = [self._network.probabilities(part.to(self._device)).cpu() for part in features.split(_ROWS)]
        return torch.cat(parts)


class ClipFeatures:
    """CLIP's embeddings of images and captions, not normalised (Radford et al. 2021, arXiv:2103.00020).

    Args:
        model: a folder or hub id in transformers' format, as `openai/clip-vit-large-patch14`.
    Attributes:
        scale: the learned temperature, which preference models such as PickScore include.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        self._network, self._tokenizer = _loaded(model, CLIPModel), _loaded(model, AutoTokenizer)
        self._network.to(device)
        self._side, self._device = self._network.config.vision_config.image_size, device
        vision = self._network.config.vision_config
        self.name = f"CLIP ViT/{vision.patch_size} {vision.hidden_size}, bicubic {self._side}"
        self.weights_sha256 = tensors_sha256(self._network)
        self.scale = float(self._network.logit_scale.exp())

    @_EXACT
    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Embeddings of images, as in `Extractor`."""
        pixels = torch.stack([square_pixels(image, self._side, CLIP_MEAN, CLIP_STD) for image in images])
        pooled = self._network.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        return self._network.visual_projection(pooled).float().cpu()

    @torch.inference_mode()
    def texts(self, captions: list[str]) -> Tensor:
        """Embeddings float32 [N, D] of captions; what exceeds the text encoder's length is cut off."""
        longest = self._network.config.text_config.max_position_embeddings
        rows = []
        for start in range(0, len(captions), _TEXT_CHUNK):
            tokens = self._tokenizer(
                captions[start : start + _TEXT_CHUNK], padding=True, truncation=True, max_length=longest,
                return_tensors="pt",
            ).to(self._device)  # fmt: skip
            pooled = self._network.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
            rows.append(self._network.text_projection(pooled).float().cpu())
        return torch.cat(rows)


class Dinov2Features:
    """The class token of DINOv2 (Oquab et al. 2023, arXiv:2304.07193), which FD-DINOv2 and neighbourhoods use."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import Dinov2Model

        self._network, self._device = _loaded(model, Dinov2Model).to(device), device
        config = self._network.config
        self.name = f"DINOv2 ViT/{config.patch_size} {config.hidden_size}, bicubic {DINOV2_SIDE}"
        self.weights_sha256 = tensors_sha256(self._network)

    @_EXACT
    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Class tokens of images, as in `Extractor`."""
        pixels = torch.stack([square_pixels(image, DINOV2_SIDE, IMAGENET_MEAN, IMAGENET_STD) for image in images])
        return self._network(pixel_values=pixels.to(self._device)).pooler_output.float().cpu()


EXTRACTORS: dict[str, Callable[[Any, str], Extractor]] = {  # name -> made of (networks of a protocol, device)
    "inception": lambda networks, device: InceptionFeatures(networks.inception, True, device),
    "inception_legacy": lambda networks, device: InceptionFeatures(networks.inception, False, device),
    "inception_spatial": lambda networks, device: InceptionFeatures(networks.inception, False, device, spatial=True),
    "clip": lambda networks, device: ClipFeatures(networks.clip, device),
    "clip_cmmd": lambda networks, device: ClipFeatures(networks.clip_cmmd, device),
    "dinov2": lambda networks, device: Dinov2Features(networks.dinov2, device),
    "pickscore": lambda networks, device: ClipFeatures(networks.pickscore, device),
    "efficientnet": lambda networks, device: EfficientNetFeatures(device),
    "resnet": lambda networks, device: ResNetFeatures(device),
}


def clean_resize(image: Tensor, side: int = SIDE) -> Tensor:
    """uint8 [3, H, W] -> float [3, side, side] in 0..255: Pillow's antialiased bicubic on floats, nothing rounded."""
    planes = [Image.fromarray(plane.numpy().astype(np.float32)) for plane in image]
    resized = [np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC)) for plane in planes]
    return torch.from_numpy(np.stack(resized).clip(0, 255))


def square_pixels(image: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [3, H, W] -> normalised float [3, side, side]: short side to `side` (bicubic), centre kept."""
    picture = to_picture(image)
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def clip_scores(images: Tensor, texts: Tensor, scale: float = 100.0) -> Tensor:
    """`scale` times the cosine of each image [N, D] and its caption [N, D], float64 [N] (CLIPScore, arXiv:2104.08718).

    The field reports 100 times the cosine; Hessel et al. have 2.5 and clip at zero.
    """
    return scale * F.cosine_similarity(images.double(), texts.double(), dim=1)


def tensors_sha256(network: nn.Module) -> str:
    """Hex digest of all tensors of a network, in whatever file or shards they lay."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _loaded(model: str, kind: Any) -> Any:
    """A network or tokenizer in transformers' format, safetensors only."""
    options = {"use_safetensors": True} if hasattr(kind, "config_class") else {}
    try:
        loaded = kind.from_pretrained(model, **options)
    except Exception as error:  # of the disk, the hub, or transformers
        raise UserError(
            f"network {model}: cannot be loaded ({said(error)}); "
            f"fetch it with `hf download {model} --local-dir DIR` and give DIR under `networks:` of the protocol"
        ) from error
    return loaded.eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded
