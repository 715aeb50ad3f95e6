"""What a run or an evaluation was made with: versions, hardware, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import e2ed2


def environment() -> dict[str, object]:
    """Versions, hardware and commit."""
    return {
        "e2ed2": e2ed2.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("accelerate", "diffusers", "transformers")},
        "platform": platform.platform(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of a checkout, `-dirty` when it was edited since; None for an installed copy or without git."""
    folder = Path(__file__).parent
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", "."], cwd=folder, capture_output=True, check=True)
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_name() -> str:
    """What figures on speed are measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
