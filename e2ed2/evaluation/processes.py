"""The processes of one evaluation under `accelerate launch`: which share of the work is whose, and waiting."""

from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState

PATIENCE = timedelta(days=7)  # of the processes that have done their share


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world` does every `world`-th part; the first alone does what is common."""

    rank: int = 0
    world: int = 1

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            PartialState().wait_for_everyone()

    def leave(self) -> None:
        """Wait for all a last time; from here on they end when they like."""
        self.wait()
        if self.world > 1:
            PartialState().destroy_process_group()


ALONE = Share()


def join_processes() -> Share:
    """The share of this process; the whole where it is alone."""
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return Share(state.process_index, state.num_processes)
