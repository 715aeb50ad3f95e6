"""What verbs share: arguments, and progress that tells what Ctrl-C leaves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from e2ed2.system.launched import num_started
from e2ed2.system.signals import interruptible

MODEL_HELP = "A model folder, a hub id, or a bundled model: emoji-base, emoji-lcm, emoji-e2ed2."
EVALUATED_HELP = (
    f"{MODEL_HELP} Or a baseline: sdxl, sdxl-turbo, sdxl-lightning, lcm, pixart-delta or a .yaml; a folder of images; "
    "a floor of the emoji protocols: real, autoencoder."
)
Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped one: emoji/e2ed2.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Fields to change.", show_default=False)
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Steps = Annotated[int | None, typer.Option(help="Sampler steps.", show_default="what the model was made for")]
BatchSize = Annotated[int, typer.Option(help="Images made at a time; does not change them.")]


def join_others() -> None:
    """Of several processes of one command: find the others first, so that what ends one ends all.

    Raises:
        UserError: they cannot be reached.
    """
    if num_started() > 1:
        from e2ed2.system.together import meet

        meet()


class Interrupted(Exception):
    """Ctrl-C; the message says what was saved."""


@contextmanager
def waiting_for(saved: str, *, loads_models: bool = True) -> Iterator[Any]:
    """Progress bars for a verb.

    Args:
        saved: what Ctrl-C leaves, where the work does not tell it itself.
        loads_models: whether the libraries of models are needed, and told to be quiet; to load them takes seconds.
    """
    with interruptible(saved):
        from e2ed2.system.console import Waiting, quiet_libraries

        try:
            with Waiting() as waiting:
                waiting("starting", 0, 0)
                if loads_models:
                    quiet_libraries()
                yield waiting
        except KeyboardInterrupt as error:
            raise Interrupted(str(error) or saved) from None
