"""What machines wrote lies under `results/`, in folders whose names every shell and disk takes, and is talked about."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from e2ed2.ablation.suite import folder_name
from e2ed2.evaluation.results import EVALUATION_FILE, read_result

ROOT = Path(__file__).parents[1]
SUITES = sorted((ROOT / "results" / "ablation").iterdir())


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.name)
def test_every_folder_is_a_row_of_its_suite_and_is_named_in_the_docs(suite):
    rows = yaml.safe_load((suite / "suite.yaml").read_text())["rows"]
    said = (ROOT / "docs" / "results.md").read_text()
    assert {path.name for path in suite.iterdir() if path.is_dir()} == {folder_name(row) for row in rows}
    assert [row for row in rows if row not in said] == []
    evaluations = list(suite.rglob(EVALUATION_FILE))
    assert evaluations and all(read_result(path)["metrics"] for path in evaluations)


def test_no_name_needs_quotes():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no checkout")
    assert [path for path in listed.stdout.splitlines() if not re.fullmatch(r"[A-Za-z0-9_./-]+", path)] == []


def test_the_seeds_table_is_what_its_command_prints(monkeypatch, capsys):
    said = (ROOT / "docs" / "results.md").read_text()
    command = re.search(r"`python (benchmarks/seed_differences\.py) (.*?)`", said)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [command[1], *command[2].split()])
    runpy.run_path(command[1], run_name="__main__")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 9 and [row for row in rows if row not in said] == []
