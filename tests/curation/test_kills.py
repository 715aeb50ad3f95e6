"""Real kills: of the whole in each step, and of one of two Ray workers in the middle of one. The end is the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.curation.conftest import contents, pipeline_of, run, write_images

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SMALL = ("engine.part_rows=4", "output.items_per_shard=3", "select.count=15")


@pytest.fixture
def asked(tmp_path):
    """Fields of a pipeline over 25 images, of which two are the same."""
    folder = write_images(tmp_path / "many", 24)
    (folder / "copy.jpg").write_bytes((folder / "001.jpg").read_bytes())
    (folder / "copy.txt").write_text("a copy")
    return (f"input.path={folder}", *SMALL)


def said_by(script, out, fields):
    command = [sys.executable, HERE / script, str(out), *fields]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_killed_in_each_step_it_goes_on_to_the_same_end(asked, tmp_path):
    run(pipeline_of(tmp_path / "whole", *asked))
    killed, status = said_by("kill_curations.py", tmp_path / "cut", asked)
    assert int(killed) >= 4 and status == "0"
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole") and not (tmp_path / "cut" / "work").exists()


def test_two_ray_workers_of_which_one_is_killed_come_to_the_same_end(asked, tmp_path):
    pytest.importorskip("ray")
    asked = (*asked, "engine.part_rows=7")  # four parts: each costs a worker's start
    run(pipeline_of(tmp_path / "local", *asked))
    fields = (*asked, "engine.runner=ray", "engine.workers=2")
    assert said_by("ray_cluster.py", tmp_path / "cluster", fields)[-1] == "1"
    assert contents(tmp_path / "cluster") == contents(tmp_path / "local")
