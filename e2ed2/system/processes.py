"""The processes of one command under `accelerate launch`: finding each other, whose share is which, waiting."""

from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from e2ed2.system.environment import device_name
from e2ed2.system.together import meet

PATIENCE = timedelta(days=7)  # of the processes that have done their share


def process_state(patience: timedelta = PATIENCE) -> PartialState:
    """This process among all. On the CPU they find each other only if accelerate is told that it is one.

    Args:
        patience: how long they wait for each other; the first call decides.
    Raises:
        UserError: they cannot be reached, or one does not come.
    """
    is_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    others = meet()
    if others is None:
        return PartialState(cpu=is_on_cpu, timeout=patience)
    place = {"rank": others.rank, "world_size": others.world}
    return PartialState(cpu=is_on_cpu, timeout=patience, store=others.store, **place)


def about_processes(state: PartialState, precision: str) -> str:
    """What a run begins by saying; a launcher that started fewer than were asked for is seen here."""
    number = "1 process" if state.num_processes == 1 else f"{state.num_processes} processes"
    return f"{number}, {device_name()}, precision {'float32' if precision == 'no' else precision}"


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
    state = process_state()
    return Share(state.process_index, state.num_processes)
