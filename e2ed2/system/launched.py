"""What a launcher (`accelerate launch`, `torchrun`, `srun`) says of the processes of a command; nothing is imported."""

import os
import socket


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
