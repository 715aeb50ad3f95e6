"""What a run was made with."""

import os
import shutil
import subprocess

import pytest
import torch

import e2ed2
from e2ed2.system import environment as module
from e2ed2.system.environment import environment


def test_the_environment_names_versions_and_hardware():
    found = environment()
    assert found["torch"] == torch.__version__ and found["e2ed2"] == e2ed2.__version__ and found["accelerator"]


def no_program(*args, **kwargs):
    raise FileNotFoundError("git")


def no_repository(command, **kwargs):
    raise subprocess.CalledProcessError(128, command)


@pytest.mark.parametrize("failure", [no_program, no_repository])
def test_no_git_means_no_commit(monkeypatch, failure):
    monkeypatch.setattr(module.subprocess, "run", failure)
    assert environment()["commit"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def git(*command):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    git("init", "--quiet")
    (tmp_path / "other").write_text("1")
    git("add", "other")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert environment()["commit"] == commit
    (tmp_path / "other").write_text("2")
    assert environment()["commit"] == f"{commit}-dirty"
