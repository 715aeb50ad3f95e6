"""Who sees which pair, by which criterion, on which side, when: drawn once from a seed. Knows neither web nor store.

Each rater judges the prompts once by each criterion, in blocks of one criterion. A block begins with practice pairs,
the same for all raters; then come main pairs with attention checks among them, and some main pairs once more, mirrored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from random import Random

from e2ed2.study.votes import CRITERIA

MOST_PRACTICE = 30  # Table 3
PRACTICE_SHARE, CHECK_SHARE, REPEAT_SHARE = 0.1, 0.05, 0.05  # of the prompts
LEAST_PROMPTS = 4


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt.

    Attributes:
        kind: `practice`, `main`, `repeat` or `check`. repeat_of: of a repeat, the pair that it shows again.
        prompt: its number. models: whose pictures they are, by number; of a check the first is that picture whole, the
            second spoiled, and the models are the same.
    """

    id: str
    kind: str
    prompt: int
    models: tuple[int, int]
    repeat_of: str = ""


@dataclass(frozen=True)
class Screen:
    """One pair as one rater sees it. is_mirrored: the second model of the pair is on the left."""

    pair: str
    is_mirrored: bool


@dataclass(frozen=True)
class Block:
    """The screens of one criterion, in order."""

    criterion: str
    screens: list[Screen]


@dataclass(frozen=True)
class Design:
    """pairs: by their ids. raters: of each the blocks in order."""

    pairs: dict[str, Pair]
    raters: list[list[Block]]


def design_study(num_prompts: int, num_models: int, num_raters: int, seed: int) -> Design:
    """Draw a design.

    With more than two models a rater sees each prompt with one pair of models, in turn: each rater sees all pairs of
    models equally often, within one, and so does each prompt over the raters. All votes together can differ by more,
    unless prompts or raters are a multiple of the pairs: 4 models, 23 prompts (21 count), 3 raters give 9 to 12 of
    each. Half of a rater's pairs of two models are mirrored, block by block; raters get the six orders of the criteria
    in turn.

    Args:
        num_prompts: at least `LEAST_PROMPTS`. num_models: at least 2.
    """
    rng = Random(f"study {seed}")
    versus = list(combinations(range(num_models), 2))
    num_practice = min(MOST_PRACTICE, max(1, round(PRACTICE_SHARE * num_prompts)))
    kinds = ["practice" if prompt < num_practice else "main" for prompt in range(num_prompts)]
    plain = {
        (prompt, models): Pair(f"{prompt:04d}-{models[0]}-{models[1]}", kind, prompt, models)
        for prompt, kind in enumerate(kinds)
        for models in versus
    }
    checks = _checks(num_practice, num_models, max(1, round(CHECK_SHARE * num_prompts)))
    orders = [list(order) for order in permutations(CRITERIA)]
    rng.shuffle(orders)
    raters = []
    for rater in range(num_raters):
        seen = [plain[prompt, versus[(prompt + rater) % len(versus)]] for prompt in range(num_prompts)]
        raters.append([_block(criterion, seen, checks, rng) for criterion in orders[rater % len(orders)]])
    pairs = {pair.id: pair for pair in [*plain.values(), *checks]}
    pairs |= {again.id: again for pair in plain.values() if pair.kind == "main" for again in [_again(pair)]}
    return Design(pairs, raters)


def _checks(num_practice: int, num_models: int, count: int) -> list[Pair]:
    """Of practice prompts, the models in turn: no main pair is seen twice because of them."""
    models = [i % num_models for i in range(count)]
    return [Pair(f"check-{i:03d}", "check", i % num_practice, (m, m)) for i, m in enumerate(models)]


def _again(pair: Pair) -> Pair:
    return Pair(f"{pair.id}-again", "repeat", pair.prompt, pair.models, repeat_of=pair.id)


def _block(criterion: str, seen: Sequence[Pair], checks: Sequence[Pair], rng: Random) -> Block:
    """The screens of a rater's block: practice, then main pairs and checks, repeats among the last third."""
    practice = _mirrored([pair for pair in seen if pair.kind == "practice"], rng)
    main = _mirrored([pair for pair in seen if pair.kind == "main"], rng)
    rng.shuffle(practice)
    rng.shuffle(main)
    early = main[: max(1, len(main) // 3)]
    again = rng.sample(early, min(len(early), max(1, round(REPEAT_SHARE * len(seen)))))
    repeats = [(_again(pair), not is_mirrored) for pair, is_mirrored in again]
    counted = _spread_in(main, _mirrored(checks, rng), len(main) // 10, rng)
    counted = _spread_in(counted, repeats, 2 * len(counted) // 3, rng)
    return Block(criterion, [Screen(pair.id, is_mirrored) for pair, is_mirrored in [*practice, *counted]])


def _mirrored(pairs: Sequence[Pair], rng: Random) -> list[tuple[Pair, bool]]:
    """Each pair with its side: half of those of the same models, within one, are mirrored."""
    sides: dict[tuple[int, int], list[bool]] = {}
    for pair in pairs:
        sides.setdefault(pair.models, []).append(False)
    for flips in sides.values():
        extra = rng.random() < 0.5 if len(flips) % 2 else False
        flips[: len(flips) // 2 + extra] = [True] * (len(flips) // 2 + extra)
        rng.shuffle(flips)
    return [(pair, sides[pair.models].pop()) for pair in pairs]


def _spread_in(
    screens: list[tuple[Pair, bool]], more: list[tuple[Pair, bool]], start: int, rng: Random
) -> list[tuple[Pair, bool]]:
    """`more` at random places among the screens from `start` on."""
    places = sorted(rng.choices(range(start, len(screens) + 1), k=len(more)), reverse=True)
    rng.shuffle(more)
    merged = list(screens)
    for place, item in zip(places, more, strict=True):
        merged.insert(place, item)
    return merged
