"""Models that draw while somebody waits: loaded once, kept while they are asked for, one at work at a time."""

import secrets
import shlex
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.bundled import BUNDLED, resolve_model
from e2ed2.models.folders.card import code_of
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.inference import INFERENCE_FILE, inference_of
from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.provenance.label import metadata_label
from e2ed2.sampling.generate import Request
from e2ed2.sampling.label import made_by
from e2ed2.system.drawing.pictures import to_picture
from e2ed2.system.errors import UserError, check_range
from e2ed2.web.runs import Runs

if TYPE_CHECKING:
    from e2ed2.sampling.model import LoadedModel

MOST_LOADED, MOST_PICTURES = 3, 200
MOST_LETTERS, MOST_SEED, MOST_STEPS = 2000, 2**31 - 1, 8
OF_A_RUN = {"model": "its model", "best": "its best", "evaluation/start": "its start"}  # folder in it -> what it is


@dataclass(frozen=True)
class Drawn:
    """A picture that was made.

    Attributes:
        png: with a label that says that it is made. seconds: that drawing took, loading apart.
        note: on the prompt. command, code: that make it again.
    """

    key: str
    png: bytes
    model: str
    prompt: str
    seed: int
    steps: int
    nfe: int
    side: int
    seconds: float
    note: str
    command: str
    code: str


class Painter:
    """Draws with the models that ship and those of runs, by names that it gives them itself.

    Args:
        turn: held by whoever loads, counts or runs a model: libraries of models load themselves bit by bit, and not in
            two threads at once.
    """

    def __init__(self, runs: Runs, turn: threading.Lock) -> None:
        self._runs, self._turn = runs, turn
        self._loaded: OrderedDict[tuple[str, int], LoadedModel] = OrderedDict()  # (model, when it was written)
        self._pictures: OrderedDict[str, Drawn] = OrderedDict()

    def models(self) -> dict[str, str]:
        """Name -> what to call it: what ships, then the models of runs."""
        found = {name: name for name in reversed(BUNDLED)}
        for name in self._runs.listing().runs:
            folder = self._runs.path(name)
            for part, words in OF_A_RUN.items():
                if (folder / part / INDEX_FILE).is_file():
                    found[f"{name}/{part}"] = f"{name}: {words}"
        return found

    def draw(self, name: str, prompt: str, seed: int, steps: int) -> Drawn:
        """One picture.

        Raises:
            UserError: no such model, one that is being written, or values out of range.
        """
        prompt = " ".join(prompt.split())
        if not 1 <= len(prompt) <= MOST_LETTERS:
            raise UserError(f"prompt: {len(prompt):,} letters; give 1 to {MOST_LETTERS:,}")
        check_range("seed", seed, 0, MOST_SEED)
        check_range("steps", steps, 1, MOST_STEPS)
        with self._turn:
            model = self._model(name)
            if model.num_inference_steps != steps:
                model = model.at(steps)
            started = time.perf_counter()
            image = model.sampler([Request(prompt, seed)])[0]
            took = time.perf_counter() - started
        png = metadata_label().png(to_picture(image), made_by(model, prompt, seed))
        path = self._path(name)
        cut = "only its beginning counts: it is too long for the text encoder" if model.too_long([prompt]) else ""
        drawn = Drawn(
            secrets.token_urlsafe(12), png, name, prompt, seed, steps, model.sampler.nfe, image.shape[-1], took, cut,
            command_of(path, prompt, seed, steps), _code(path, prompt, seed, steps),
        )  # fmt: skip
        self._pictures[drawn.key] = drawn
        while len(self._pictures) > MOST_PICTURES:
            self._pictures.popitem(last=False)
        return drawn

    def picture(self, key: str) -> Drawn:
        """One that was drawn; KeyError where it is forgotten."""
        return self._pictures[key]

    def warm(self, name: str) -> None:
        """Load a model before it is asked for; what goes wrong is told when it is."""

        def load() -> None:
            try:
                with self._turn:
                    self._model(name).sampler([Request("warm", 0)])
            except Exception:
                return

        if name not in {known for known, _ in self._loaded}:
            threading.Thread(target=load, daemon=True).start()

    def forget(self) -> None:
        """Give the memory of loaded models back, to a training that begins."""
        with self._turn:
            self._loaded.clear()
            import torch

            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _path(self, name: str) -> str:
        """What `e2ed2 sample` takes for it; UserError where there is no such model."""
        if name in BUNDLED:
            return name
        if name not in self.models():
            raise UserError(f"model '{name}': there is none; choose one of the list")
        part = next(part for part in OF_A_RUN if name.endswith(f"/{part}"))
        return str(self._runs.path(name.removesuffix(f"/{part}")) / part)

    def _model(self, name: str) -> "LoadedModel":
        from e2ed2.sampling.model import load_model
        from e2ed2.system.console import quiet_libraries

        path = self._path(name)
        key = name, 0 if name in BUNDLED else (Path(path) / INDEX_FILE).stat().st_mtime_ns
        if key not in self._loaded:
            quiet_libraries()
            try:
                model = load_model(path)
            except OSError as error:  # replaced at this very moment
                raise UserError(f"model '{name}': is being written; ask again in a moment") from error
            self._loaded[key] = model
            while len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def command_of(path: str, prompt: str, seed: int, steps: int) -> str:
    """What to type for the same picture."""
    return shlex.join(["e2ed2", "sample", path, prompt, "--num", "1", "--seed", str(seed), "--steps", str(steps)])


def _code(path: str, prompt: str, seed: int, steps: int) -> str:
    """The same in Python with plain diffusers; nothing of a folder without the exact call."""
    folder = resolve_model(path)
    try:
        inference = inference_of(folder / INFERENCE_FILE, {}, {})
        index = read_index(folder)
    except UserError:
        return ""
    family = FAMILIES[index.class_name]
    if steps != inference.num_inference_steps:
        grid = inference.own_grids.get(steps)
        inference = replace(inference, num_inference_steps=steps, timesteps=grid, fewer_timesteps=None)
    where = str(folder.absolute())
    network = index.parts[family.network][1]
    return code_of(inference, family, network, prompt, seed, where, has_filter="safety_checker" in index.parts)
