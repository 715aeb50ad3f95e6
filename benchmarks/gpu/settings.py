"""What is measured, what matters most first."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

CHECKPOINTING = ("none", "blocks", "steps", "both")  # model.gradient_checkpointing, trajectory's, both of them
BATCH = {512: 4, 1024: 2}  # pictures of an update; at K = 4 without checkpointing they fill a large card
PIXART, SDXL = "PixArt XL/2", "SDXL"


@dataclass(frozen=True)
class Setting:
    """One row: a network trained on pictures of `side` pixels through `num_steps` steps, or sampled."""

    network: str = PIXART
    side: int = 512
    num_steps: int = 4
    checkpointing: str = "none"
    trained: str = "all"  # or lora; "" when it is sampled
    is_compiled: bool = False
    batch_size: int = 4
    compiled_part: str = "BasicTransformerBlock"

    def __str__(self) -> str:
        what = {"all": "all weights", "lora": "LoRA", "": "sampling"}[self.trained]
        words = [f"{self.network} {self.side} px", what, f"K = {self.num_steps}"]
        if self.checkpointing != "none":
            words.append(f"checkpointing {self.checkpointing}")
        return ", ".join(words + [f"{self.compiled_part} compiled"] * self.is_compiled)


def ordered() -> list[Setting]:
    """Every setting: first one of each kind, then the rest of the table."""
    return list(dict.fromkeys([*_first(), *_table()]))


def _first() -> Iterator[Setting]:
    for checkpointing in CHECKPOINTING:
        yield _pixart(512, 4, checkpointing)
    yield _pixart(512, 4, is_compiled=True)
    yield _pixart(1024, 4, "blocks")
    yield _pixart(512, 4, trained="lora")
    yield Setting(SDXL, 1024, 4, "blocks", "lora", batch_size=1)
    yield from (Setting(PIXART, side, trained="", batch_size=16) for side in BATCH)
    yield Setting(SDXL, 1024, trained="", batch_size=4)
    for num_steps in (1, 2):
        yield _pixart(512, num_steps)
    yield Setting(PIXART, 512, 4, "blocks", batch_size=8)  # the paper's batch of a GPU
    yield _pixart(1024, 4)


def _table() -> Iterator[Setting]:
    for is_compiled, trained, side, num_steps, checkpointing in product(
        (False, True), ("all", "lora"), BATCH, (4, 2, 1), CHECKPOINTING
    ):
        yield _pixart(side, num_steps, checkpointing, trained, is_compiled)


def _pixart(
    side: int, num_steps: int, checkpointing: str = "none", trained: str = "all", is_compiled: bool = False
) -> Setting:
    return Setting(PIXART, side, num_steps, checkpointing, trained, is_compiled, BATCH[side])


def tiny() -> list[Setting]:
    """Each kind once, for tiny networks at 64 px on any machine."""
    chains = [Setting(side=64, num_steps=k, batch_size=2) for k in (4, 2, 1)]
    modes = [Setting(side=64, num_steps=2, checkpointing=mode, batch_size=2) for mode in CHECKPOINTING[1:]]
    lora = [Setting(name, 64, 2, "blocks", "lora", batch_size=2) for name in (PIXART, SDXL)]
    sampled = [Setting(name, 64, trained="", batch_size=2) for name in (PIXART, SDXL)]
    # A CPU's compiler takes half a minute for a whole block.
    compiled = Setting(side=64, num_steps=1, is_compiled=True, batch_size=2, compiled_part="FeedForward")
    return [*chains, *modes, *lora, *sampled, compiled]
