"""The house: which room may import which, held by import-linter's contracts in pyproject.toml, and its size."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES = 13  # of a folder, its __init__ among them; commands/ has one for each verb


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts on the package that lies in `folder`."""
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "e2ed2", tmp_path / "e2ed2", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    return tmp_path


def test_every_contract_is_kept(copy):
    found = lint(copy)
    assert found.returncode == 0 and "0 broken" in found.stdout, found.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("data/order.py", "def late():\n    from e2ed2.training.loop import train", "Rooms import only"),
        ("evaluation/results.py", "from e2ed2.emoji.dataset import load_emoji", "Rooms import only"),
        ("training/log.py", "if TYPE_CHECKING:\n    from e2ed2.reports.table import print_evaluation", "Rooms import"),
        ("newroom.py", "", "newroom"),
        ("objectives/kernel.py", "import numpy", "The hall imports torch"),
        ("trajectory.py", "from e2ed2.system.errors import UserError", "The hall imports torch"),
        ("training/stages/terms.py", "from e2ed2.evaluation.features.efficientnet import FEATURE_DIM", "No loss can"),
        ("models/text.py", "import efficientnet_lite_pytorch", "No loss can"),
        ("models/text.py", "from e2ed2.models import secret", "No loss can"),
        ("study/analysis/analyze.py", "from e2ed2.study.store import Store", "What votes show"),
        ("study/store.py", "def late():\n    import e2ed2.study.app", "Design and store"),
    ],
)
def test_a_broken_contract_fails(copy, file, line, contract):
    path = copy / "e2ed2" / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n\n{line}\n")
    if "secret" in line:
        detour = "def by_a_detour():\n    import e2ed2.evaluation.features.efficientnet\n"
        (copy / "e2ed2" / "models" / "secret.py").write_text(detour)
    found = lint(copy)
    assert found.returncode != 0 and contract in found.stdout


def test_every_room_says_what_it_is_and_can_be_seen_at_a_glance():
    for folder in [path for path in (ROOT / "e2ed2").rglob("*") if (path / "__init__.py").exists()]:
        files = list(folder.glob("*.py"))
        assert len(files) <= MOST_FILES or folder.name == "commands", folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_the_hall_loads_torch_alone():
    """At run time too: what torch itself brings along does not count."""
    names = [f"objectives.{path.stem}" for path in (ROOT / "e2ed2" / "objectives").glob("*.py")]
    hall = ", ".join(f"e2ed2.{name}" for name in [*names, "time_grid", "trajectory", "samplers"] if "__" not in name)
    code = (
        f"import sys, torch\nbefore = set(sys.modules)\nimport {hall}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(names - {'e2ed2', 'torch'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"
