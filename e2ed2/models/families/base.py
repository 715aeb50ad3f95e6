"""What has to be known of a family of pipelines; all else is the same for every model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from e2ed2.models.autoencoder import cell_side
from e2ed2.models.latent_spaces import space_named
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import schedule_of

Denoise = Callable[[Tensor, Tensor, PromptEmbeds], Tensor]  # (x_t [B, C, h, w], t [B], cond) -> prediction [B, C, h, w]
Guide = Callable[[Tensor, Tensor, float], Tensor]  # of predictions with and without the prompt, and the scale
MAX_ENLARGED = 8  # times the side that a network is made for
KohyaNames = Mapping[str, Sequence[str]]  # see `blocks`
OUR_NAMES: KohyaNames = {}  # theirs are diffusers' own
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")  # attention and feed-forward of a block


@dataclass(frozen=True)
class Sizes:
    """Pictures that a model takes, in pixels.

    Attributes:
        side: of those it is made for. step: both sides are multiples of it. most: the longest side.
        trained_step, trained_least, trained_most: of what it may be trained on.
    """

    side: int
    step: int
    most: int
    trained_step: int
    trained_least: int
    trained_most: int


class Family(ABC):
    """A kind of pipeline. Holds no model: every method is given the pipeline, a loaded diffusers one."""

    network: ClassVar[str] = "transformer"  # the component that denoises
    autoencoder: ClassVar[str] = "AutoencoderKL"  # its class, one of `latent_spaces.SPACES`
    half: ClassVar[str] = "float16"  # the half precision that its weights can be run in
    lora_targets: ClassVar[Sequence[str]] = LORA_TARGETS  # as `lora.lora_copies` takes them
    kohya_names: ClassVar[KohyaNames | None] = None  # None: no such tool knows the network
    needs: ClassVar[tuple[str, ...]] = ("scheduler", "vae", "text_encoder", "tokenizer")  # beside the network
    size_arguments: ClassVar[tuple[str, ...]] = ("height", "width")  # of the pipeline's call
    recomputes_blocks: ClassVar[bool] = True  # whether the gradient is the same where its network recomputes them
    call_arguments: ClassVar[tuple[str, ...]] = ()  # fields of `Inference` that only this pipeline's call takes
    prompt_argument: ClassVar[str] = "prompt=prompt"  # of the call, in the card's code
    cost_is_told: ClassVar[bool] = True  # whether steps and `guidance_scale` alone say what an image costs
    takes_noise: ClassVar[bool] = True  # whether noise that a solver draws on its way is of the call's generator
    has_classes: ClassVar[bool] = False  # whether a prompt is the name of one of the model's classes
    knows_crop: ClassVar[bool] = False  # whether the network is told of an image's original size and crop (SDXL)
    most_steps_of_any_grid: ClassVar[int] = 1000  # more are taken at even timesteps alone
    step_callback: ClassVar[str] = "callback_on_step_end"  # the call's argument

    def max_tokens(self, pipeline: Any, default: int) -> int:
        """How many tokens of a prompt count, where the pipeline's call says `default`."""
        return default

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """To how many tokens `prompts` are padded; only a masked text encoder can do with fewer than the most."""
        return max_sequence_length

    @abstractmethod
    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        """Prompts as the pipeline's own call embeds them, one row each, on the text encoder's device.

        Args:
            length: of `prompt_length`.
        """

    def call_prompts(self, pipeline: Any, prompts: list[str]) -> dict[str, Any]:
        """The arguments of the pipeline's call that say what to draw."""
        return {"prompt": prompts}

    def uncond(self, pipeline: Any, empty: PromptEmbeds) -> PromptEmbeds:
        """What the pipeline's call guides away from when it is given no negative prompt: `empty`, the empty prompt."""
        return empty

    def saved_config(self, pipeline: Any) -> dict[str, Any]:
        """What `save_pretrained` leaves out of the pipeline's config."""
        return {}

    def embeds_guidance(self, pipeline: Any) -> bool:
        """Whether the network is told the guidance scale, so that guidance costs no second evaluation."""
        return False

    def side(self, network: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> int:
        """Pixels along a side of what the model makes, from the configs of its network and its autoencoder."""
        return network.get("sample_size", 64) * space_named(self.autoencoder).cell_side(autoencoder)

    def sizes(self, pipeline: Any) -> Sizes:
        """Which pictures the model takes."""
        config, cell = getattr(pipeline, self.network).config, cell_side(pipeline.vae)
        side, patch = self.side(config, pipeline.vae.config), getattr(config, "patch_size", 1)
        positions = getattr(config, "pos_embed_max_size", None)  # SD3 has a table of them
        most = MAX_ENLARGED * side if positions is None else positions * patch * cell
        token = cell * self.cells_per_token(config)
        return Sizes(side, cell * patch, most, token, -(-side // 2), 2 * side)

    def cells_per_token(self, network: Any) -> int:
        """Latent cells along a side of a transformer's patch, or of a pixel in the middle of a UNet, by its config."""
        return network.patch_size

    def channels(self, network: Any) -> int:
        """C of the latents that the network takes, by its config."""
        return network.in_channels

    def shift(self, pipeline: Any, height: int, width: int, num_steps: int) -> float:
        """The fixed shift of noise levels that a scheduler with a dynamic one has for pictures of this size.

        Levels are moved by mu, a line in the number of tokens; an exponential shift of mu is a fixed one of exp(mu).
        """
        config, step = pipeline.scheduler.config, self.sizes(pipeline).step
        tokens = (height // step) * (width // step)
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        return math.exp(mu) if config.time_shift_type == "exponential" else mu

    @abstractmethod
    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        """Of a token's embedding and of the pooled vector, as the network takes them."""

    @abstractmethod
    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        """One call of the network, as the pipeline does it, differentiable.

        Args:
            network: of the pipeline's architecture, wrapped or not. guidance_scale: for one that embeds it.
        """

    def guide(self, cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
        """Predictions [B, C, h, w] with and without the prompt as one."""
        return classifier_free(cond, uncond, guidance_scale)

    def guidance(self, guidance_scale: float, *, embedded: bool) -> dict[str, Any]:
        """The arguments of the pipeline's call that guide it.

        Args:
            guidance_scale: 1 is none. embedded: whether the network is told it.
        """
        return {"guidance_scale": guidance_scale}

    def own_guidance(self, pipeline: Any, call: Mapping[str, Any]) -> float:
        """The guidance scale, 1 being none, of a call's arguments."""
        return call["guidance_scale"]

    def why_no_guidance(self, pipeline: Any) -> str | None:
        """Why the pipeline's call takes no guidance; None where it does."""
        return None


def blocks(original: str, ours: str, layers: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """Names of layers of the model's first code, as ComfyUI and kohya's tools have them -> their parts here, in order.

    A block's number is `#`.

    Args:
        original, ours: of the list of blocks. layers: in a block, one -> parts with a space between.
    """
    return {f"{original}.#.{name}": [f"{ours}.#.{part}" for part in parts.split()] for name, parts in layers.items()}


class Flow(Family):
    """A transformer of rectified flow, which knows time by the noise level."""

    call_arguments: ClassVar[tuple[str, ...]] = ("max_sequence_length",)

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        config = pipeline.transformer.config
        return config.joint_attention_dim, config.get("pooled_projection_dim")

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        schedule = schedule_of(pipeline.scheduler)

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            _, sigma = schedule.levels(t, x_t)
            return self.predict(pipeline, network, x_t, sigma.flatten(), cond, guidance_scale)

        return denoise

    @abstractmethod
    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        """The network's prediction [B, C, h, w], noise less data, at levels sigma [B]."""


class Rotary(Flow):
    """A flow that knows a place by a rotation, so that it takes pictures of any size."""

    half = "bfloat16"

    def side(self, network: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> int:
        return autoencoder.get("sample_size", 1024)

    def sizes(self, pipeline: Any) -> Sizes:
        config = getattr(pipeline, self.network).config
        side = self.side(config, pipeline.vae.config)
        step = cell_side(pipeline.vae) * self.cells_per_token(config)
        return Sizes(side, step, MAX_ENLARGED * side, step, step, 2 * side)

    def cells_per_token(self, network: Any) -> int:
        return 2

    def channels(self, network: Any) -> int:
        return network.in_channels // self.cells_per_token(network) ** 2


def classifier_free(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598): uncond + scale (cond - uncond)."""
    return uncond + guidance_scale * (cond - uncond)


def image_size(pipeline: Any, x_t: Tensor) -> tuple[int, int]:
    """(height, width) in pixels of latents x_t [B, C, h, w]."""
    cell = cell_side(pipeline.vae)
    return x_t.shape[-2] * cell, x_t.shape[-1] * cell
