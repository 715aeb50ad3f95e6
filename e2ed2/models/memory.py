"""What training a model takes of a device's memory, counted before anything is loaded: a first count.

Networks are made on the meta device from their configs, so that it takes a second or two and no weights. Counted are
weights, gradients, AdamW's two moments and the average; the tensors that autograd keeps of one evaluation for one
image, and of decoding one; not what libraries keep for themselves.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from e2ed2.models.autoencoder import decode, decoder_features
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import FAMILIES, family_of, network_of
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.parts import read_config
from e2ed2.models.lora import lora_copies
from e2ed2.models.losses.lpips_network import load_lpips_network
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.system.environment import machine_memory

TRAINED_BYTES = 4 + 4 + 8 + 4  # of a weight in float32: itself, its gradient, AdamW's moments, its average
NUM_TOKENS = 77  # of a prompt, where the model does not say: CLIP's
BEYOND = 1.25  # how much more a run takes than is counted: the allocator, libraries, what backward makes on its way


@dataclass(frozen=True)
class Counts:
    """What a model is made of, and what one evaluation of one image takes.

    Attributes:
        num_trained, num_frozen: weights of the network. num_decoder: of the autoencoder. num_text: of text encoders.
        evaluation, decoding, decoder_features, features: bytes in float32 that autograd keeps of one evaluation of the
            network, of decoding a window, of the decoder's first maps of it, and of a perceptual network's features.
        evaluation_flops, decoding_flops, decoder_features_flops, features_flops: of the same, forward.
    """

    num_trained: int
    num_frozen: int
    num_decoder: int
    num_text: int
    evaluation: int
    evaluation_flops: int
    decoding: int
    decoding_flops: int
    decoder_features: int
    decoder_features_flops: int
    features: int
    features_flops: int


def count_model(
    folder: Path, side: int, lora_rank: int | None = None, *, window: int | None = None, recomputes_blocks: bool = False
) -> Counts:
    """Of a model folder, whose configs are all that is read, for images of `side` pixels.

    Args:
        lora_rank: of an adapter on a frozen network; None trains all weights. window: cells a side of what losses
            decode; None for all. recomputes_blocks: with `model.gradient_checkpointing`; of the block at work nothing
            is counted.
    Raises:
        UserError: not a pipeline of a known family.
    """
    pipeline = _on_meta(folder)
    network, autoencoder = network_of(pipeline), pipeline.vae.requires_grad_(False)
    if recomputes_blocks:
        network.enable_gradient_checkpointing()
    with torch.device("meta"):
        trained = network if lora_rank is None else lora_copies(network, 1, lora_rank)[0]
    features = load_lpips_network("bundled").to("meta")
    cells = side // pipeline.vae_scale_factor
    latents = _empty(network.config.in_channels, cells)
    seen = _empty(autoencoder.config.latent_channels, min(window or cells, cells))
    pixels = _empty(3, seen.shape[-1] * pipeline.vae_scale_factor)
    denoise, cond = denoiser_of(pipeline, trained), _condition(pipeline)
    evaluation = _taken(lambda: denoise(latents, torch.ones(1, device="meta"), cond), trained)
    decoding = _taken(lambda: decode(autoencoder, seen), autoencoder)
    maps = _taken(lambda: decoder_features(autoencoder, seen), autoencoder)
    judged = _taken(lambda: features(pixels), features)
    return Counts(
        sum(p.numel() for p in trained.parameters() if p.requires_grad),
        sum(p.numel() for p in trained.parameters() if not p.requires_grad),
        sum(p.numel() for p in autoencoder.parameters()), _num_text(folder), *evaluation, *decoding, *maps, *judged,
    )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Bytes that a training takes.

    Attributes:
        weights: of everything, trained or not, with gradients, moments and average.
        evaluation: kept for the backward of one evaluation of the network for one image.
        decoding: kept for the backward of decoding one image.
        num_trained: trained weights.
    """

    weights: int
    evaluation: int
    decoding: int
    num_trained: int

    def at(self, rows: int, evaluations: float, decoded: float = 1.0) -> float:
        """Of a micro-batch of `rows` images, of each the tensors of some evaluations kept and a share `decoded` of it.

        With steps recomputed in backward one evaluation is kept, however many steps the gradient passes through.
        """
        return BEYOND * (self.weights + rows * (evaluations * self.evaluation + decoded * self.decoding))


def count_memory(
    folder: Path, side: int, lora_rank: int | None = None, *, half: bool = False, recomputes_blocks: bool = False
) -> Memory:
    """`count_model` in bytes; half: frozen weights and activations are in bf16."""
    counts = count_model(folder, side, lora_rank, recomputes_blocks=recomputes_blocks)
    size = 2 if half else 4
    weights = TRAINED_BYTES * counts.num_trained + size * (counts.num_frozen + counts.num_decoder)
    return Memory(weights, counts.evaluation * size // 4, counts.decoding * size // 4, counts.num_trained)


def device_memory() -> int:
    """Bytes of the GPU's memory that are free, or on a CPU what the machine has."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return machine_memory()


def _on_meta(folder: Path) -> Any:
    """The pipeline of a folder with network and autoencoder alone, without their weights."""
    import diffusers

    index = read_index(folder)
    family, kind = FAMILIES[index.class_name], getattr(diffusers, index.class_name)
    needed = [name for name, given in inspect.signature(kind).parameters.items() if given.default is given.empty]
    parts: dict[str, Any] = dict.fromkeys([*needed, *index.parts])
    for name in (family.network, "vae"):
        library, class_name = index.parts[name]
        config = read_config(folder / name / "config.json")
        with torch.device("meta"):
            parts[name] = getattr(import_module(library), class_name).from_config(config)
    library, class_name = index.parts["scheduler"]
    config = read_config(folder / "scheduler" / "scheduler_config.json")
    parts["scheduler"] = getattr(import_module(library), class_name).from_config(config)
    options = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    return kind(**parts, **options)


def _condition(pipeline: Any) -> PromptEmbeds:
    """Embeddings of one prompt, without values."""
    family = family_of(pipeline)
    width, pooled_width = family.widths(pipeline)
    pooled = None if pooled_width is None else torch.empty(1, pooled_width, device="meta")
    return PromptEmbeds(torch.empty(1, NUM_TOKENS, width, device="meta"), None, pooled)


def _empty(channels: int, side: int) -> Tensor:
    return torch.empty(1, channels, side, side, device="meta", requires_grad=True)


def _num_text(folder: Path) -> int:
    """Weights of the text encoders whose configs are there."""
    index, count = read_index(folder), 0
    for name in index.text_encoders:
        if (folder / name / "config.json").is_file():
            library, class_name = index.parts[name]
            kind = getattr(import_module(library), class_name)
            with torch.device("meta"):
                encoder = kind(kind.config_class(**read_config(folder / name / "config.json")))
            count += sum(p.numel() for p in encoder.parameters())
    return count


def _taken(run: Callable[[], Any], network: nn.Module) -> tuple[int, int]:
    """(Bytes of the tensors that autograd keeps of a run, the network's own weights aside, each storage once; FLOP)."""
    own = {id(p) for p in network.parameters()}
    sizes: dict[int, tuple[Tensor, int]] = {}

    def pack(x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if id(base) not in own:
            sizes[id(base)] = (base, base.numel() * base.element_size())  # kept alive, so that ids stay theirs
        return x

    fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch does not count
    counter = FlopCounterMode(display=False, custom_mapping={fused: _attention_flops})
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), _FusedAttention(), counter:
        run()
    return sum(size for _, size in sizes.values()), counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


class _FusedAttention(TorchFunctionMode):
    """Attention by a fused kernel, as on devices: on meta it is the plain formula, which keeps a table of all pairs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        options = {name: value for name, value in (kwargs or {}).items() if name in ("attn_mask", "scale")}
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **options)[0]
