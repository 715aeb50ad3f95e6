"""What a model is made of and what one evaluation takes, counted before anything is loaded; `needs` adds it up.

Networks are made of fake tensors from their configs, so that it takes seconds and no weights. Counted are weights, and
the tensors that autograd keeps of one evaluation for one image and of decoding one, in float32 or as autocast has them
in bf16; not what libraries keep for themselves.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from e2ed2.models.autoencoder import cell_side, decode, decoder_features, latent_channels
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import FAMILIES, family_of, fix_shift, network_of
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.parts import read_config
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.models.losses.lpips_network import load_lpips_network
from e2ed2.models.memory.frozen import linear_layers
from e2ed2.models.memory.recompute import Kept, Recomputed
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.system.environment import machine_memory

NUM_TOKENS = 77  # of a prompt, where the pipeline does not say: CLIP's


@dataclass(frozen=True)
class Counts:
    """What a model is made of, and what one evaluation of one image takes.

    Attributes:
        num_trained, num_frozen: weights of the network. num_decoder: of the autoencoder. num_text: of text encoders.
        num_in_blocks: weights of the blocks' linear layers, which can be held in fewer bits or offloaded.
        embeds_guidance: whether the network is told the guidance scale.
        block: bytes that are kept of the block at work; taken to be an even share by the longest list of modules.
        evaluation, decoding, decoder_features, features: bytes that autograd keeps of one evaluation of the network,
            of decoding a window, of the decoder's first maps of it, and of a perceptual network's features.
        evaluation_flops, decoding_flops, decoder_features_flops, features_flops: of the same, forward.
        recomputed_flops: of what the network's blocks make again in backward.
    """

    num_trained: int
    num_frozen: int
    num_decoder: int
    num_text: int
    num_in_blocks: int
    embeds_guidance: bool
    block: int
    evaluation: int
    evaluation_flops: int
    decoding: int
    decoding_flops: int
    decoder_features: int
    decoder_features_flops: int
    features: int
    features_flops: int
    recomputed_flops: int


def count_model(
    folder: Path, side: int, lora_rank: int | None = None, *, half: bool = False, window: int | None = None,
    recomputed: Recomputed = False,
) -> Counts:  # fmt: skip
    """Of a model folder, whose configs are all that is read, for images of `side` pixels.

    Args:
        lora_rank: of an adapter on a frozen network; None trains all weights. half: in bf16, as autocast has it.
        window: cells a side of what losses decode; None for all. recomputed: `model.gradient_checkpointing`.
    Raises:
        UserError: not a pipeline of a known family.
    """
    features = load_lpips_network("bundled")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    pipeline = bare_pipeline(folder, torch.device("meta"))
    family, network, autoencoder = family_of(pipeline), network_of(pipeline), pipeline.vae.requires_grad_(False)
    fix_shift(pipeline, side, side, num_steps=1)
    num_in_blocks = sum(layer.weight.numel() for _, _, layer in linear_layers(network))
    with torch.device("meta"):
        trained = network if lora_rank is None else lora_copies(network, 1, lora_rank, family.lora_targets)[0]
    for made in (trained, autoencoder):
        _make_fake(made, mode, torch.bfloat16 if half else torch.float32)
    denoise = denoiser_of(pipeline, trained)
    with mode:
        cells = side // cell_side(autoencoder)
        latents = _empty(family.channels(network.config), cells)
        seen = _empty(latent_channels(autoencoder), min(window or cells, cells))
        pixels = _empty(3, seen.shape[-1] * cell_side(autoencoder))
        cond = full_condition(pipeline)
        evaluation, flops = _taken(lambda: denoise(latents, torch.ones(1), cond), trained, half)
        block = evaluation // max(len(m) for m in network.modules() if isinstance(m, nn.ModuleList))
        kept = Kept()
        if recomputed:  # of a LoRA the network below
            trained.enable_gradient_checkpointing(kept.run if recomputed == "selective" else None)  # type: ignore[operator]
            evaluation, flops = _taken(lambda: denoise(latents, torch.ones(1), cond), trained, half)
        decoding = _taken(lambda: decode(autoencoder, seen), autoencoder, half)
        maps = _taken(lambda: decoder_features(autoencoder, seen), autoencoder, half)
        judged = _taken(lambda: features(pixels), features, half)
    return Counts(
        num_trained=_num(trained, True), num_frozen=_num(trained, False), num_decoder=_num(autoencoder, False),
        num_text=_num_text(folder), num_in_blocks=num_in_blocks,
        embeds_guidance=family.embeds_guidance(pipeline), block=block,
        evaluation=evaluation + kept.num_bytes, evaluation_flops=flops,
        decoding=decoding[0], decoding_flops=decoding[1],
        decoder_features=maps[0], decoder_features_flops=maps[1], features=judged[0], features_flops=judged[1],
        recomputed_flops=flops if recomputed is True else kept.flops,
    )  # fmt: skip


def device_memory() -> int:
    """Bytes of the GPU's memory that are free, or on a CPU what the machine has."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return machine_memory()


def bare_pipeline(folder: Path, device: torch.device) -> Any:
    """The pipeline of a folder's configs with network and autoencoder alone, of random weights; on meta without any."""
    import diffusers

    index = read_index(folder)
    family, kind = FAMILIES[index.class_name], getattr(diffusers, index.class_name)
    needed = [name for name, given in inspect.signature(kind).parameters.items() if given.default is given.empty]
    parts: dict[str, Any] = dict.fromkeys([*needed, *index.parts])
    for name in (family.network, "vae"):
        library, class_name = index.parts[name]
        config = read_config(folder / name / "config.json")
        with device:
            parts[name] = getattr(import_module(library), class_name).from_config(config)
    library, class_name = index.parts["scheduler"]
    config = read_config(folder / "scheduler" / "scheduler_config.json")
    parts["scheduler"] = getattr(import_module(library), class_name).from_config(config)
    options = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    return kind(**parts, **options)


def _make_fake(network: nn.Module, mode: FakeTensorMode, frozen: torch.dtype) -> None:
    """Weights on meta become fake ones on a CPU, which autocast and fused kernels know; frozen: their type."""
    for module in network.modules():
        for name, p in module.named_parameters(recurse=False):
            held = p.detach() if p.requires_grad else p.detach().to(frozen)
            fake = nn.Parameter(FakeTensor(mode, held, torch.device("cpu")), p.requires_grad)
            module.register_parameter(name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module.register_buffer(name, FakeTensor(mode, buffer, torch.device("cpu")))


def full_condition(pipeline: Any) -> PromptEmbeds:
    """Embeddings of one prompt of full length, of random values."""
    family = family_of(pipeline)
    width, pooled_width = family.widths(pipeline)
    pooled = None if pooled_width is None else torch.randn(1, pooled_width)
    longest = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    num_tokens = longest.default if longest and isinstance(longest.default, int) else NUM_TOKENS
    return PromptEmbeds(torch.randn(1, num_tokens, width), None, pooled)


def _empty(channels: int, side: int) -> Tensor:
    return torch.empty(1, channels, side, side, requires_grad=True)


def _num(network: nn.Module, is_trained: bool) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad == is_trained)


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


def _taken(run: Callable[[], Any], network: nn.Module, half: bool = False) -> tuple[int, int]:
    """(Bytes of the tensors that autograd keeps of a run, each storage once, FLOP).

    The network's own weights are none of them, nor the copies that autocast makes of them. half: under autocast.
    """
    own = {id(p) for p in network.parameters()}
    shapes = {p.shape for p in network.parameters() if p.dtype == torch.float32 and p.ndim > 1}
    sizes: dict[int, tuple[Tensor, int]] = {}

    def pack(x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if id(base) not in own:
            sizes[id(base)] = (base, base.numel() * base.element_size())  # kept alive, so that ids stay theirs
        return x

    fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch does not count
    counter = FlopCounterMode(display=False, custom_mapping={fused: _attention_flops})
    autocast = torch.autocast("cpu", torch.bfloat16, half)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), autocast, counter:
        run()
    kept = [size for x, size in sizes.values() if not (x.dtype == torch.bfloat16 and x.shape in shapes)]
    return sum(kept), counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)
