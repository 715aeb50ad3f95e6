"""The documents: what they link to and name is there, and their commands are what the program takes."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.ablation.suite import load_suite
from e2ed2.commands.app import app
from e2ed2.evaluation.protocols import protocol_names
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import load_config
from e2ed2.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOW = [page for page in PAGES if page.name != "log.md"]  # the log speaks of its own day
PACKAGE = ROOT / "e2ed2"


def commands(page: Path) -> list[list[str]]:
    """The lines of its blocks that begin with `e2ed2`, as a shell splits them."""
    found = []
    for block in re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("cd e2ed2/weights && ")
            if line.startswith("e2ed2 "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page):
    places = (ROOT, PACKAGE, ROOT / "tests", ROOT / "tests" / "evaluation", ROOT / "recipes", page.parent)
    named = re.findall(r"`(?:python |pytest )?((?:[\w-]+/)*[\w-]+\.(?:py|yaml|md|json|svg))\b", page.read_text())
    missing = [name for name in named if "/" in name or name.startswith("test_")]
    missing = [name for name in missing if not any((place / name).exists() for place in places)]
    assert [name for name in missing if not name.startswith(("runs/", "evaluation/step", "DIR/"))] == []


def test_the_map_of_files_is_the_package():
    """Every room stands in README's map, and nothing does that is not there."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("## Files") :].split("```")[1]
    rooms = re.findall(r"^  (?:  )?([\w]+/?(?:\.py)?)", block, re.M)
    listed = {room.removesuffix("/").removesuffix(".py") for room in rooms}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} <= listed | {"weights"}
    for room in [room for room in rooms if room.endswith("/")]:
        assert list(PACKAGE.rglob(room.removesuffix("/"))), room


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.name)
def test_commands_are_what_the_program_takes(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    verbs = {command.callback.__name__ for command in app.registered_commands}
    for group in app.registered_groups:
        verbs |= {f"{group.name} {command.callback.__name__}" for command in group.typer_instance.registered_commands}
    for words in commands(page):
        length = 1 if words[0] in verbs else 2  # `study` has verbs of its own
        verb, rest = " ".join(words[:length]), words[length:]
        assert verb in verbs, words
        if verb == "train" and (rest[0] in shipped_recipes() or (ROOT / rest[0]).exists()):
            load_config(Path(rest[0]), [word for word in rest[1:] if word != "--dry-run"])
        options = [word.partition("=")[0] for word in rest if word.startswith("--")]
        help_text = CliRunner().invoke(app, [*words[:length], "--help"], env={"COLUMNS": "200"}).output
        assert [option for option in options if option not in help_text] == [], words
        for option, value in zip(rest, rest[1:], strict=False):
            if option == "--protocol" and not value.endswith(".yaml") and value.isidentifier():
                assert value == "NAME" or value in protocol_names(), words


def test_the_example_in_python_runs_as_printed_with_torch_alone():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert set(re.findall(r"^(?:import|from) (\w+)", block, re.M)) == {"torch", "e2ed2"}
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["network"].weight.grad.abs().sum() > 0 and names["samples"].shape == (16, 4, 16, 16)


# What makes a line of README a matter of seconds; everything else is as printed.
SHORTER = {
    "train": ["train.max_train_steps=2"],
    "finetune": ["train.max_train_steps=2"],
    "evaluate": ["--num-images", "16"],
    "curate": ["check.min_side=1"],
    "sample": [], "precompute": [], "compare": [], "study": [], "verify": [], "plan": [],
}  # fmt: skip


@pytest.mark.slow
def test_every_line_of_the_readme_runs_as_printed(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "my_images")
    program = Path(sys.executable).with_name("e2ed2")
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text[text.index("## What it does") :].split("```")[1].splitlines() if line]
    for line in lines:
        verb, *words = shlex.split(line, comments=True)[1:]
        if verb == "ablate":  # its quick size takes minutes, and has a test of its own
            assert load_suite(Path(words[0]), "--quick" in words).recipe.is_file()
            continue
        if verb == "train" and "run.dir=runs/mine" not in words:  # the bundled set takes a minute to encode
            words.append("--dry-run")
        done = subprocess.run(
            [program, verb, *words, *SHORTER[verb]], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr[-800:]}"
    assert (tmp_path / "runs" / "table" / "compare.html").is_file()


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.name)
def test_names_of_the_package_are_there(page):
    """`module.name` within backquotes, where `module` is one of ours."""
    for module, name in re.findall(r"`(?:e2ed2\.)?((?:[a-z_]+\.)+)([A-Za-z_]+)(?:\(|`)", page.read_text()):
        parts = module.removesuffix(".").split(".")
        path = PACKAGE.joinpath(*parts)
        is_field = parts[0] in Config.model_fields and len(parts) == 1  # of a recipe, such as trajectory.solver
        if path.with_suffix(".py").exists() and name != "py" and not is_field:
            assert hasattr(importlib.import_module(f"e2ed2.{'.'.join(parts)}"), name), f"{module}{name}"
