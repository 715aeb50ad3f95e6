"""A study's folder: `study.json` (what is shown to whom), `secret.json`, `links.csv`, `pictures/` of random names."""

import csv
import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error
from itsdangerous import BadSignature, URLSafeSerializer

from e2ed2.study.design import Design
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, write_file
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import Record

VERSION = 1
LONGEST_LINK = 400  # letters that are looked at
STUDY_FILE, SECRET_FILE, LINKS_FILE = "study.json", "secret.json", "links.csv"
PICTURES, DATABASE = "pictures", "votes.db"
REMEDY = "`e2ed2 study create A B --out DIR` makes one"


class PromptRow(Record):
    """A prompt; `category` is empty where none is known."""

    text: str
    category: str


class PairRow(Record):
    """`design.Pair`, and the files of its two pictures."""

    id: str
    kind: str
    prompt: int
    models: list[int]
    files: list[str]
    repeat_of: str


class BlockRow(Record):
    """The screens of one criterion: of each the number of its pair, and 1 where that is mirrored."""

    criterion: str
    screens: list[list[int]]


class RaterRow(Record):
    """Who takes part, and what is shown, in order."""

    name: str
    group: str
    blocks: list[BlockRow]


class StudyFile(Record):
    """`study.json`."""

    version: int
    id: str
    seed: int
    models: list[str]
    prompts: list[PromptRow]
    pairs: list[PairRow]
    raters: list[RaterRow]


class Secret(Record):
    """`secret.json`: an argon2 hash, and the key that signs links."""

    password_hash: str
    signing_key: str

    def is_password(self, password: str) -> bool:
        """Takes some 50 ms and 64 MiB, by intention."""
        try:
            return PasswordHasher().verify(self.password_hash, password)
        except (Argon2Error, ValueError):  # another password, or no hash of argon2
            return False


@dataclass(frozen=True, slots=True)
class Shown:
    """One screen of one rater, with all that a vote on it means.

    Attributes:
        number: of the screen, from 0. left, right: the models' names. files: of the pictures, left and right.
    """

    number: int
    criterion: str
    kind: str
    pair: str
    repeat_of: str
    prompt: str
    category: str
    left: str
    right: str
    expected: str
    files: tuple[str, str]

    @property
    def is_practice(self) -> bool:
        """Whether its vote never counts."""
        return self.kind == "practice"


@dataclass(frozen=True)
class Rater:
    """A rater and all screens of theirs, block by block."""

    name: str
    group: str
    screens: list[Shown]


class Study:
    """A study as it was set up; nothing of it changes while it runs."""

    def __init__(self, folder: Path, content: StudyFile, secret: Secret) -> None:
        self.folder, self.secret, self.id = folder, secret, content.id
        self.models = content.models
        self.num_prompts = len(content.prompts)
        self._content = content

    @cached_property
    def raters(self) -> dict[str, Rater]:
        """All raters by name."""
        return {row.name: self._rater(row) for row in self._content.raters}

    def link(self, rater: str, issue: int) -> str:
        """The path of a rater's page; `issue` counts how often a new link was made."""
        return f"/r/{self._signer.dumps([rater, issue])}"

    def read_link(self, token: str) -> tuple[str, int] | None:
        """(rater, issue) of a link's last part; None where we have not signed it."""
        try:
            name, issue = self._signer.loads(token[:LONGEST_LINK])
        except BadSignature:
            return None
        return (name, issue) if name in self.raters else None

    @cached_property
    def _signer(self) -> URLSafeSerializer:
        return URLSafeSerializer(self.secret.signing_key, salt="rater's link")

    def _rater(self, row: RaterRow) -> Rater:
        screens: list[Shown] = []
        for block in row.blocks:
            for pair, is_mirrored in block.screens:
                screens.append(self._shown(len(screens), block.criterion, self._content.pairs[pair], bool(is_mirrored)))
        return Rater(row.name, row.group, screens)

    def _shown(self, number: int, criterion: str, pair: PairRow, is_mirrored: bool) -> Shown:
        sides = [1, 0] if is_mirrored else [0, 1]
        prompt = self._content.prompts[pair.prompt]
        left, right = (self.models[pair.models[side]] for side in sides)
        expected = ("right" if is_mirrored else "left") if pair.kind == "check" else ""
        files = (pair.files[sides[0]], pair.files[sides[1]])
        return Shown(
            number, criterion, pair.kind, pair.id, pair.repeat_of, prompt.text, prompt.category, left, right, expected,
            files,
        )  # fmt: skip


def read_study(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        UserError: none there, of another version, or damaged: with the file and what is wrong.
    """
    path = folder / STUDY_FILE
    content = read_typed(path, StudyFile, "study", REMEDY)
    if content.version != VERSION:
        raise UserError(f"study {path}: of version {content.version}, this e2ed2 reads {VERSION}: use its own")
    secret = read_typed(folder / SECRET_FILE, Secret, "secret", "restore it from a copy: without it no link is valid")
    study = Study(folder, content, secret)
    try:
        lost = {file for rater in study.raters.values() for shown in rater.screens for file in shown.files}
    except (IndexError, ValueError) as error:
        raise UserError(f"study {path}: a screen or a pair names what is not there; restore the file") from error
    lost -= {file.name for file in (folder / PICTURES).glob("*")}
    if lost:
        raise UserError(f"study {folder}: {len(lost)} pictures are missing, as {PICTURES}/{min(lost)}; restore them")
    return study


def write_study(
    folder: Path, design: Design, *, study_id: str, seed: int, models: list[str], prompts: list[PromptRow],
    files: dict[str, tuple[str, str]], groups: list[str], secret: Secret,
) -> None:  # fmt: skip
    """Write secret, links and, last, `study.json`: a folder without it holds no study. Nobody else may enter it.

    Args:
        files: of each pair (a repeat has those of its own) the two pictures. groups: of each rater.
    """
    numbers = {pair: number for number, pair in enumerate(design.pairs)}
    raters = [
        RaterRow(
            name=f"rater-{i:0{len(str(len(groups)))}d}",
            group=group,
            blocks=[
                BlockRow(criterion=b.criterion, screens=[[numbers[s.pair], int(s.is_mirrored)] for s in b.screens])
                for b in blocks
            ],
        )
        for i, (group, blocks) in enumerate(zip(groups, design.raters, strict=True), 1)
    ]
    pairs = [
        PairRow(
            id=p.id, kind=p.kind, prompt=p.prompt, models=list(p.models), files=list(files[p.repeat_of or p.id]),
            repeat_of=p.repeat_of,
        )
        for p in design.pairs.values()
    ]  # fmt: skip
    content = StudyFile(
        version=VERSION, id=study_id, seed=seed, models=models, prompts=prompts, pairs=pairs, raters=raters
    )
    study = Study(folder, content, secret)
    with atomic_file(folder / SECRET_FILE) as temporary:
        folder.chmod(0o700)  # who reads links.csv can vote, who reads study.json is not blind
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        temporary.write_text(secret.model_dump_json() + "\n")
    write_file(folder / LINKS_FILE, _links(study).encode())
    write_file(folder / STUDY_FILE, (json.dumps(content.model_dump(), ensure_ascii=False) + "\n").encode())


def _links(study: Study) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rater", "group", "link"])
    writer.writerows([rater.name, rater.group, study.link(rater.name, 1)] for rater in study.raters.values())
    return text.getvalue()
