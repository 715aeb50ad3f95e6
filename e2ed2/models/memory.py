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

from e2ed2.models.autoencoder import cell_side, decode, latent_channels
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import FAMILIES, family_of, fix_shift, network_of
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.parts import read_config
from e2ed2.models.lora import lora_copies
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.system.environment import machine_memory

TRAINED_BYTES = 4 + 4 + 8 + 4  # of a weight in float32: itself, its gradient, AdamW's moments, its average
NUM_TOKENS = 77  # of a prompt, where the model does not say: CLIP's
BEYOND = 1.25  # how much more a run takes than is counted: the allocator, libraries, what backward makes on its way


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
    """Of a model folder, for images of `side` pixels.

    Args:
        lora_rank: of an adapter on a frozen network; None trains all weights. half: frozen weights and activations are
            in bf16. recomputes_blocks: with `model.gradient_checkpointing`; of the block at work nothing is counted.
    Raises:
        UserError: not a pipeline of a known family.
    """
    pipeline = _on_meta(folder)
    family, network, autoencoder = family_of(pipeline), network_of(pipeline), pipeline.vae.requires_grad_(False)
    size = 2 if half else 4
    if recomputes_blocks:
        network.enable_gradient_checkpointing()
    with torch.device("meta"):
        trained = network if lora_rank is None else lora_copies(network, 1, lora_rank, family.lora_targets)[0]
    num_trained = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    num_frozen = sum(p.numel() for p in (*trained.parameters(), *autoencoder.parameters()) if not p.requires_grad)
    latents = torch.empty(
        1, family.channels(network.config), *2 * [side // cell_side(autoencoder)], device="meta", requires_grad=True
    )
    fix_shift(pipeline, side, side, num_steps=1)
    denoise, cond = denoiser_of(pipeline, trained), _condition(pipeline)
    evaluation = _kept(lambda: denoise(latents, torch.ones(1, device="meta"), cond), trained)
    decoding = _kept(lambda: decode(autoencoder, latents[:, : latent_channels(autoencoder)]), autoencoder)
    weights = TRAINED_BYTES * num_trained + size * num_frozen
    return Memory(weights, evaluation * size // 4, decoding * size // 4, num_trained)


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


def _kept(run: Callable[[], Tensor], network: nn.Module) -> int:
    """Bytes of the tensors that autograd keeps of a run, the network's own weights aside; each storage once."""
    own = {id(p) for p in network.parameters()}
    sizes: dict[int, tuple[Tensor, int]] = {}

    def pack(x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if id(base) not in own:
            sizes[id(base)] = (base, base.numel() * base.element_size())  # kept alive, so that ids stay theirs
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), _FusedAttention():
        run()
    return sum(size for _, size in sizes.values())


class _FusedAttention(TorchFunctionMode):
    """Attention by a fused kernel, as on devices: on meta it is the plain formula, which keeps a table of all pairs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | (kwargs or {})
        tensors = [given[name] for name in ("query", "key", "value")]
        options = {name: given[name] for name in ("attn_mask", "scale") if name in given}
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*tensors, **options)[0]
