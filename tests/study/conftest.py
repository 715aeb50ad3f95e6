"""A small study of two models, a store for it, and its app."""

import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="pip install 'e2ed2[study]'")

from fastapi.testclient import TestClient

from benchmarks.study.serving import Served
from e2ed2.sampling.folder import Manifest, ManifestRow, write_manifest
from e2ed2.study.app.build import create_app
from e2ed2.study.create import create_study
from e2ed2.study.folder import LINKS_FILE, Study, read_study
from e2ed2.study.store import Store, default_url
from e2ed2.system.drawing.pictures import png_bytes, to_picture

PROMPTS = [f"prompt {i}" for i in range(9)] + ['<script>alert("é & 中")</script>']
MODELS = ("secret-alpha", "secret-beta")
HTML = {"accept": "text/html"}


def write_images(folder: Path, level: int, prompts: list[str] = PROMPTS, seeds: tuple[int | None, ...] = (0,)) -> Path:
    """A sample folder of 24 px pictures, whose noise grows with `level`: as PNG they are of different lengths."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, prompt in enumerate(prompts):
        for seed in seeds:
            generator = torch.Generator().manual_seed(100 * i + (seed or 0))
            image = 120 + level * torch.randn(3, 24, 24, generator=generator)
            rows.append(ManifestRow(file=f"images/{i}-{seed}.png", prompt=prompt, seed=seed))
            (folder / rows[-1].file).write_bytes(png_bytes(to_picture(image.clamp(0, 255).byte())))
    write_manifest(folder, Manifest(made_by="e2ed2 test", model=folder.name, images=rows))
    return folder


@dataclass
class Running:
    """A study with its store and a client for its app. links: of all raters, in order."""

    study: Study
    store: Store
    client: TestClient
    password: str
    links: list[str]

    def vote(self, link: str, screen: int, choice: str = "left", id: str | None = None, **fields: object):
        body = {"screen": screen, "choice": choice, "seconds": 1.5} | fields
        return self.client.put(f"{link}/votes/{id or f'vote-{screen:04d}'}", json=body)

    def sign_in(self) -> None:
        """The client has the organiser's cookie from then on."""
        response = self.client.post("/organiser/sign-in", data={"password": self.password}, follow_redirects=False)
        assert response.status_code == 303


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sample folders of the same prompts and seeds."""
    home = tmp_path_factory.mktemp("evaluated")
    return [write_images(home / name, level) for name, level in zip(MODELS, (4, 60), strict=True)]


@pytest.fixture(scope="session")
def created(evaluated, tmp_path_factory) -> tuple[Path, str]:
    """A study's folder, which stays as it is, and its password."""
    out = tmp_path_factory.mktemp("created") / "study"
    return out, create_study([str(path) for path in evaluated], out, groups={"artist": 2, "lay": 1}, seed=5)


@pytest.fixture
def folder(created, tmp_path) -> tuple[Path, str]:
    """A copy of it."""
    return shutil.copytree(created[0], tmp_path / "study"), created[1]


@pytest.fixture
def running(folder) -> Iterator[Running]:
    out, password = folder
    study = read_study(out)
    store = Store(default_url(out), study.id, list(study.raters))
    links = [row["link"] for row in csv.DictReader((out / LINKS_FILE).read_text().splitlines())]
    with TestClient(create_app(study, store)) as client:
        yield Running(study, store, client, password, links)
    store.close()


@pytest.fixture
def served(folder) -> Iterator[Served]:
    """The study's server, in a process of its own."""
    server = Served(folder[0])
    yield server
    server.kill()


def screens(page: str) -> list[str]:
    """The numbers of the screens that a page holds."""
    return re.findall(r'data-number="(\d+)"', page)
