"""What a launcher (`accelerate launch`, `torchrun`, `srun`) says of the processes of a command; nothing is imported."""

import os
import socket
import sys
from pathlib import Path


def num_started() -> int:
    """How many processes there are."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if number.isdecimal() else 1


def is_first() -> bool:
    """Whether this process speaks for all where they are of one mind."""
    return num_started() == 1 or os.environ.get("RANK") == "0"


def about_process() -> str:
    """Which of the processes this is, and where."""
    return f"process {os.environ.get('RANK')} of {num_started()}, on {socket.gethostname()}"


def typed() -> list[str]:
    """The command as somebody typed it, from `e2ed2` on; nothing where Python was asked in another way."""
    is_ours = Path(sys.argv[0]).name == "e2ed2" or sys.argv[0].endswith(os.path.join("e2ed2", "cli.py"))
    return ["e2ed2", *sys.argv[1:]] if is_ours else []
