"""Signals while modules load: the process ends at once and quietly, whatever libraries do with exceptions."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2ed2.system.signals import NOTICES_ARE_CTRL_C, handled, interruptible

ROOT = Path(__file__).parents[2]
SWALLOWS = """
import signal
try:
    signal.raise_signal(signal.{name})
except BaseException:
    pass  # as libraries do with what goes wrong while they look for each other
"""
FINDER = """
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.{name})
sys.meta_path.insert(0, Finder())
sys.argv = {argv!r}
from e2ed2.cli import main
main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_module_that_swallows_the_interrupt_does_not_go_on(tmp_path, name):
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(name=name))
    code = "from e2ed2.system.signals import interruptible\nwith interruptible('all is kept'):\n    import swallows"
    done = subprocess.run([sys.executable, "-c", code + "\nprint('went on')"], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted: all is kept\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["typer", "rich.progress", "yaml"])
def test_the_command_ends_quietly_while_its_modules_load(tmp_path, module, name):
    argv = ["e2ed2", "train", str(ROOT / "recipes" / "demo.yaml"), f"run.dir={tmp_path / 'run'}"]
    code = FINDER.format(module=module, name=name, argv=argv)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": "."}
    )
    assert done.returncode == 130 and done.stdout == "" and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_elsewhere_both_are_an_interrupt_and_what_was_there_comes_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt), interruptible(""):
            signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt), interruptible(""), handled(NOTICES_ARE_CTRL_C):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_nohup_ignores_stays_ignored():
    before, reached = signal.signal(signal.SIGHUP, signal.SIG_IGN), []
    try:
        with interruptible(""):
            reached.append(signal.getsignal(signal.SIGHUP))
            signal.raise_signal(signal.SIGHUP)
            reached.append("the end")
        assert reached == [signal.SIG_IGN, "the end"] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
