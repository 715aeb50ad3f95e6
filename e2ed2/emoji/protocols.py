"""The emoji benchmark's protocols: which prompts, how many samples of each, against which real images.

| name | prompts | reference |
|---|---|---|
| `emoji` | captions seen in training, style named, 2 samples each | training images of the other captions |
| `emoji-heldout` | captions of unseen emoji, style named, 2 samples each | the images of the unseen emoji |
| `emoji-anystyle` | seen names without a style, 4 samples each | training images of the other names |

Prompts are drawn once by a fixed seed, so that every model answers the same ones; under `emoji` and `emoji-anystyle`
the drawn emoji (both styles) are no reference, so that the real images of the prompts are a fair floor row.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from e2ed2.emoji.dataset import load_emoji
from e2ed2.evaluation.metrics.distribution import NEAREST_K
from e2ed2.evaluation.protocols import EmojiProtocol, protocol_names, read_protocol
from e2ed2.sampling.generate import Request
from e2ed2.system.errors import UserError

DRAW_SEED = 20260101


@dataclass(frozen=True)
class EmojiBenchmark:
    """What one evaluation asks and compares with.

    Attributes:
        prompts: distinct captions. samples_per_prompt: images made for each.
        prompt_images: uint8 [P, 3, H, W], a real image of each prompt (the floor row `real`).
        reference_images: uint8 [R, 3, H, W], what samples are compared with.
        reference_groups: of each reference image, its emoji; reference_styles: its style.
        reference: names the set in every result.
    """

    name: str
    prompts: list[str]
    samples_per_prompt: int
    prompt_images: Tensor
    reference_images: Tensor
    reference_groups: list[str]
    reference_styles: list[str]
    reference: str

    @property
    def num_images(self) -> int:
        return len(self.prompts) * self.samples_per_prompt

    def requests(self, seed: int) -> list[Request]:
        """One request per image, samples of a prompt adjacent; image i of the whole has seed `seed` 1,000,000 + i."""
        prompts = [prompt for prompt in self.prompts for _ in range(self.samples_per_prompt)]
        return [Request(prompt, seed * 1_000_000 + i) for i, prompt in enumerate(prompts)]


def emoji_protocol_names() -> list[str]:
    """The shipped protocols of the emoji benchmark."""
    return [name for name in protocol_names() if isinstance(read_protocol(name), EmojiProtocol)]


def emoji_protocol(name: str) -> EmojiProtocol:
    """A protocol of the emoji benchmark.

    Raises:
        UserError: unknown, or one over files.
    """
    protocol = read_protocol(name)
    if not isinstance(protocol, EmojiProtocol):
        raise UserError(f"protocol '{name}' is not of the emoji benchmark: choose {', '.join(emoji_protocol_names())}")
    return protocol


def load_protocol(name: str, num_images: int | None = None) -> EmojiBenchmark:
    """A protocol with its prompts drawn and its reference loaded.

    Args:
        num_images: None for the protocol's own number; a multiple of its samples per prompt, enough for its metrics.
    Raises:
        UserError: unknown name, or a number of images that the protocol cannot give.
    """
    protocol = emoji_protocol(name)
    split, per_prompt = protocol.emoji.split, protocol.samples_per_prompt
    data = load_emoji(split)
    captions = data.plain_captions if protocol.emoji.captions == "plain" else data.captions
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(DRAW_SEED)).tolist()
    rows = list({captions[i]: i for i in reversed(order)}.values())[::-1]  # one row per distinct caption
    wanted = protocol.num_images if num_images is None else num_images
    least = max(2, math.ceil(2 * NEAREST_K / per_prompt)) * per_prompt  # what the metrics need
    if wanted % per_prompt or not least <= wanted <= len(rows) * per_prompt:
        raise UserError(
            f"num_images {wanted}: protocol {name} makes {per_prompt} images per prompt for up to {len(rows)} prompts, "
            f"so give a multiple of {per_prompt} from {least} to {len(rows) * per_prompt}"
        )
    rows = rows[: wanted // per_prompt]
    drawn = {data.names[i] for i in rows}
    others = list(range(len(data)))
    if split == "train":
        others = [i for i in others if data.names[i] not in drawn]
    return EmojiBenchmark(
        name=name,
        prompts=[captions[i] for i in rows],
        samples_per_prompt=per_prompt,
        prompt_images=data.images[rows],
        reference_images=data.images[others],
        reference_groups=[data.names[i] for i in others],
        reference_styles=[data.styles[i] for i in others],
        reference=f"emoji {split}, {len(others)} images" + (", prompts' emoji left out" if split == "train" else ""),
    )
