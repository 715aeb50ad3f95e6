"""What is worth knowing of a set, counted part by part in memory that does not grow with it."""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from e2ed2.curation.items import Item
from e2ed2.curation.stages.deduplicate import NEAR_LOOKS, NEAR_MEANING, SAME_BYTES

NUM_SHOWN = 24  # items of a sheet
MOST_WORDS = 200_000  # counted at a time; the rarest are forgotten
NUM_WITH = 8  # words shown that stand with a term
LEAST_WITH = 5  # times that they have to
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMMON = _words(
    "a an and are as at be by for from has have he her his in into is it its of off on or out over she that the their "
    "them there these they this to up was were which while who with you your image photo picture"
)
# Words for people, in groups whose shares and company App. B of the paper asks to be looked at. English alone.
PEOPLE = {
    "women": "woman women female females lady ladies girl girls mother mothers wife daughter sister bride queen she",
    "men": "man men male males gentleman guy guys boy boys father fathers husband son brother groom king he",
    "children": "child children kid kids baby babies toddler infant girl girls boy boys",
    "old people": "elderly senior seniors grandmother grandfather grandma grandpa",
    "African": "african nigerian kenyan ethiopian",
    "Asian": "asian chinese japanese korean indian thai vietnamese filipino",
    "European": "european british french german italian spanish russian caucasian",
    "Latin American": "latino latina hispanic mexican brazilian",
    "Middle Eastern": "arab arabian persian turkish iranian egyptian",
    "with a disability": "disabled wheelchair blind deaf",
}
TERMS = {group: _words(words) for group, words in PEOPLE.items()}
GENDERED = TERMS["women"] | TERMS["men"]


@dataclass
class Spread:
    """A histogram: values between edges, of all items and of those that were kept; the outermost bars take the rest."""

    title: str
    edges: Sequence[float]
    every: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.every, self.kept = ([0] * (len(self.edges) - 1) for _ in range(2))

    def add(self, value: float | None, is_kept: bool) -> None:
        if value is None:
            return
        first, step = self.edges[0], self.edges[1] - self.edges[0]
        place = min(max(int((value - first) / step), 0), len(self.every) - 1)
        self.every[place] += 1
        self.kept[place] += is_kept


def _edges(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / count for i in range(count + 1)]


@dataclass
class Sample:
    """A few of many items: those whose names hash lowest, so that it is the same in whatever order they come."""

    size: int
    held: list[tuple[int, str, int, Item]] = field(default_factory=list)

    def add(self, item: Item) -> None:
        key = -int.from_bytes(blake2b(item.id.encode(errors="replace"), digest_size=8).digest())
        entry = (key, item.id, -item.number, item)  # numbers differ, ids need not
        if len(self.held) < self.size:
            heapq.heappush(self.held, entry)
        elif entry > self.held[0]:
            heapq.heapreplace(self.held, entry)

    def items(self) -> list[Item]:
        return [item for *_, item in sorted(self.held, reverse=True)]


@dataclass
class Audit:
    """Counts over all items.

    Attributes:
        reasons: (stage, reason without the names in it) -> items. words: of captions kept, in how many each stands.
        people: group -> captions that hold one of its terms. beside: group -> words -> captions that hold both.
        sheets: `kept`, and stage -> what it dropped. domains: of what was kept.
    """

    read: int = 0
    kept: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    people: Counter[str] = field(default_factory=Counter)
    beside: dict[str, Counter[str]] = field(default_factory=lambda: {group: Counter() for group in TERMS})
    domains: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    sheets: dict[str, Sample] = field(default_factory=lambda: {"kept": Sample(NUM_SHOWN)})
    spreads: dict[str, Spread] = field(
        default_factory=lambda: {
            "score": Spread("Aesthetic score", _edges(0, 10, 100)),
            "side": Spread("Shorter side, pixels", _edges(0, 4096, 128)),
            "aspect": Spread("Width by height", _edges(0, 4, 80)),
            "letters": Spread("Letters of the caption", _edges(0, 1000, 200)),
        }
    )

    def add(self, items: Iterable[Item]) -> None:
        """Count a part."""
        for item in items:
            self.read += 1
            self._spread(item)
            if item.stage is not None:
                self.reasons[item.stage, kind_of(item.reason or "")] += 1
                if item.file is not None:
                    self.sheets.setdefault(item.stage, Sample(NUM_SHOWN)).add(item)
                continue
            self.kept += 1
            self.sheets["kept"].add(item)
            self.domains[item.domain or "none"] += 1
            self.licences[item.licence or "not told"] += 1
            self._read(item.caption)
        for counter in (self.words, self.domains, *self.beside.values()):
            if len(counter) > MOST_WORDS:
                for word, _ in counter.most_common()[MOST_WORDS // 2 :]:
                    del counter[word]

    def _spread(self, item: Item) -> None:
        self.spreads["score"].add(item.score, item.kept)
        self.spreads["letters"].add(len(item.caption) if item.caption else None, item.kept)
        if item.width and item.height:
            self.spreads["side"].add(min(item.width, item.height), item.kept)
            self.spreads["aspect"].add(item.width / item.height, item.kept)

    def _read(self, caption: str) -> None:
        words = {word.lower() for word in WORD.findall(caption)}
        told = words - COMMON
        self.words.update(told)
        for group, terms in TERMS.items():
            if not terms.isdisjoint(words):
                self.people[group] += 1
                self.beside[group].update(told - terms)

    def company(self, group: str) -> list[tuple[str, int, float]]:
        """(Word, captions with both, how many times as often as by chance) of what stands with a group most."""
        count = self.people[group]
        found = [
            (word, both, both * self.kept / (self.words[word] * count))
            for word, both in self.beside[group].items() if both >= LEAST_WITH and self.words[word]
        ]  # fmt: skip
        return sorted(found, key=lambda row: (-row[2], -row[1], row[0]))[:NUM_WITH]

    def leanings(self) -> list[tuple[str, int, int]]:
        """(Word, captions with women's terms, with men's) of words whose shares of the two differ most."""
        women, men = self.beside["women"], self.beside["men"]
        words = [word for word in women | men if word not in GENDERED and women[word] + men[word] >= LEAST_WITH]

        def lean(word: str) -> float:
            return abs(women[word] / max(self.people["women"], 1) - men[word] / max(self.people["men"], 1))

        words = sorted(words, key=lambda word: (-lean(word), word))[:NUM_SHOWN]
        return [(word, women[word], men[word]) for word in words]


def kind_of(reason: str) -> str:
    """A reason without what it names: an id, a domain, a decoder's words."""
    for start in (SAME_BYTES, NEAR_LOOKS, NEAR_MEANING):
        if reason.startswith(start):
            return start + "another"
    if reason.startswith("quota of ") and reason.endswith(" is full"):
        return f"quota of its {reason.split()[2]} is full"
    return reason.partition(": ")[0]
