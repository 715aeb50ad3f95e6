"""How a long piece of work tells how far it is, whoever looks on."""

from collections.abc import Callable

Watch = Callable[[str, int, int], None]  # (what is being done, done, total); a total of 0 is not known


def silent(what: str, done: int, total: int) -> None:
    """A `Watch` that shows nothing."""
