"""Rivals of `finetune`: what an update of each costs, and the folders of their figures."""

import argparse
from pathlib import Path

import pytest

from benchmarks import rivals
from benchmarks.cost import evaluations_per_update
from e2ed2.emoji.dataset import EmojiSet
from e2ed2.emoji.styles import load_style, write_style


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two drawings: what a recipe is chosen for."""
    folder = tmp_path_factory.mktemp("rivals") / "images"
    noto = load_style("noto", "validation")
    parts = (noto.images, noto.captions, noto.keys, noto.styles, noto.names)
    images, captions, keys, styles, names = (part[:2] for part in parts)
    few = EmojiSet(images, captions, keys, styles=styles, names=names)
    write_style(few, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # K is drawn as 12 : 6 : 4 : 3, so that 48 / 25 steps are sampled, of which a random start leaves (K + 1) / 2
        ("ours", 32 * 3 * 36.5 / 25 + 16 * 4 * 48 / 25),
        ("ours, without keep", 32 * 3 * 36.5 / 25),
        ("ours, last step's gradient", 32 * (36.5 / 25 + 2) + 16 * (2 * 48 / 25 + 2)),
        ("ours and the ordinary loss", 32 * 3 * 36.5 / 25 + 16 * 4 * 48 / 25 + 32 * 3),
        ("ordinary, 3e-4", 32 * 3),
        ("consistency", 32 * (3 + 1 + 1)),
        ("the slow model, distilled again", 32 * (3 + 1 + 2)),
    ],
)
def test_evaluations_of_an_update(name, expected, data, tmp_path):
    asked = argparse.Namespace(seed=3)
    config = rivals._config(rivals.RIVALS[name].fields, rivals.START, asked, data, tmp_path / "run", 7)
    assert evaluations_per_update(config) == pytest.approx(expected)
    assert (config.train.seed, config.train.max_train_steps) == (3, 7)


def test_every_rival_has_a_folder_of_its_own():
    folders = {rivals._folder(name) for name in rivals.RIVALS}
    assert len(folders) == len(rivals.RIVALS) and all(Path(folder).name == folder for folder in folders)
    assert {rival.before for rival in rivals.RIVALS.values()} - {None} <= rivals.RIVALS.keys()
