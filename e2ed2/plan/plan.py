"""For each card and number of cards: whether a recipe fits, how long an update takes, what the run costs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, RootModel

from e2ed2.models.folders.configs import configs_of
from e2ed2.models.memory.needs import Needs, needs, settings
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml
from e2ed2.system.watch import Watch, silent

CARDS = Path(__file__).parent / "cards.yaml"
REACHED = 0.35  # of a card's rate; `benchmarks.gpu` measures a card's own
GRADIENT_BYTES = 4  # of a weight
LINK = 20e9  # bytes a second from the machine's memory to a card: PCIe 4.0 x16 in practice
CONTEXT = 2**30  # bytes that CUDA, its libraries and the allocator's gaps take of a card
NUM_GPUS = (1, 8, 64)


class Card(Part):
    """A GPU. memory: GiB. rate: TFLOP/s of dense bf16 matrix products. price: of an hour."""

    memory: Annotated[float, Field(gt=0)]
    rate: Annotated[float, Field(gt=0)]
    price: Annotated[float, Field(ge=0)]


class Cards(RootModel[dict[str, Card]]):
    """Cards by name."""


@dataclass(frozen=True)
class Planned:
    """A recipe on some cards of a kind.

    Attributes:
        overrides: what to type for the quickest setting that fits; of none that fits the leanest.
    """

    gpu: str
    num_gpus: int
    needs: Needs
    peak_memory_bytes: int
    fits: bool
    seconds_per_update: float
    hours: float
    cost: float
    overrides: list[str]

    def row(self) -> dict[str, Any]:
        """As JSON, with memory by part."""
        return {name: value for name, value in vars(self).items() if name != "needs"} | {"parts": self.needs.parts}


def read_cards(path: Path | None, names: Sequence[str]) -> dict[str, Card]:
    """The cards of a table, those of `names` alone where there are any.

    Raises:
        UserError: unreadable, wrong fields, or a name that the table does not have.
    """
    path = path or CARDS
    cards = checked(Cards, read_yaml(path, "table of cards", CARDS), f"table of cards {path}").root
    for name in names:
        if name not in cards:
            line = f"`{name}: {{memory: GiB, rate: TFLOP/s, price: an hour}}`"
            known = f"{path} knows {', '.join(cards)}"
            raise UserError(f"--gpu {name}: {known}; add a line {line} to a copy, and give that with --cards")
    return {name: cards[name] for name in names or cards}


def plan(
    config: Config, cards: dict[str, Card], num_gpus: Sequence[int] = NUM_GPUS, watch: Watch = silent
) -> list[Planned]:
    """A row for each card and number of cards; a recipe's batch is that of one card, so that more of them see more.

    Raises:
        UserError: the configs of the recipe's model are not here, or its stage is not counted.
    """
    assert config.model.path is not None  # of every stage but those that make a new network, which are refused
    folder = configs_of(config.model.path)
    return [
        _planned(name, card, count, config, folder, watch)
        for name, card in sorted(cards.items(), key=lambda item: -item[1].memory)
        for count in num_gpus
    ]


def _planned(name: str, card: Card, count: int, config: Config, folder: Path, watch: Watch) -> Planned:
    """The quickest setting that fits a card; where none does, the leanest."""
    watch(f"counting {name}", 0, 0)
    has = card.memory * 2**30 - CONTEXT
    for made, changed in settings(config, folder):
        needed = needs(made, folder, half=True)
        travels = GRADIENT_BYTES * needed.num_trained if count > 1 else 0  # a copy of the gradients, for other cards
        taken, overrides = needed.peak_memory_bytes + travels, [f"{k}={json.dumps(v)}" for k, v in changed.items()]
        if taken <= has:
            break
    seconds = needed.flops / (REACHED * card.rate * 1e12) + needed.moved / LINK
    hours = config.train.max_train_steps * seconds / 3600
    cost = hours * count * card.price
    return Planned(name, count, needed, taken + CONTEXT, taken <= has, seconds, hours, cost, overrides)
