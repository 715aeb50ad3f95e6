"""The `e2ed2` command: its verbs are in `commands/`, and here every end gets its exit status.

0 done; 1 our fault, or a training that diverged; 2 something the user can mend, on one line; 130 interrupted.
"""

import os
import sys

from e2ed2.system.launched import about_process, num_started
from e2ed2.system.signals import interruptible


def main() -> None:
    """The entry point: runs a verb and turns every end into its exit status."""
    if num_started() > 1:  # torch tells at length of every connection that another process's end breaks
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with interruptible(""):
            status = _run()
    except KeyboardInterrupt:  # there was nothing to save
        status = _tell_others(130)[1]
    finally:
        if num_started() > 1:
            from e2ed2.system.together import leave

            leave()
    sys.exit(status)


def _run() -> int:
    from e2ed2.commands.app import app

    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
        _tell_others(status)
        return status
    except BrokenPipeError:  # the reader has had enough: `e2ed2 ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        kind, message, status = _read(error)
        speaks, status = _tell_others(status)
        if speaks and message is None:
            raise
        if speaks and message:
            _say_end(kind, message)
        return status


def _read(error: Exception) -> tuple[str, object, int]:
    """(Kind of end, what to say, exit status); nothing to say: None where only a traceback can tell it."""
    import typer

    from e2ed2.commands.shared import Interrupted
    from e2ed2.system.errors import NonFiniteError, UserError, missing_extra, out_of_memory, refusal

    if isinstance(error, Interrupted):
        return "interrupted", error, 130
    if isinstance(error, UserError):
        return "error", error, 2
    if isinstance(error, typer.TyperException):  # a mistyped option or a missing argument
        said = error.format_message()
        return "error", f"{said} See `e2ed2 --help`." if said else "", 2  # `e2ed2` alone: its help was shown
    if isinstance(error, NonFiniteError):
        return "error", error, 1
    message = None
    if isinstance(error, OSError):
        message = refusal(error)
    elif isinstance(error, RuntimeError | MemoryError | ImportError):
        message = out_of_memory(error) or missing_extra(error)
        if message is None and num_started() > 1:
            from e2ed2.system.together import lost

            if (message := lost(error)) is not None:
                return "error", message, 1
    return "error", message, 1 if message is None else 2


def _tell_others(status: int) -> tuple[bool, int]:
    """Whether this process is to say how it ends, and its exit status, which the first to end decides for all."""
    if num_started() == 1:
        return True, status
    from e2ed2.system.together import tell

    return tell(status)


def _say_end(kind: str, message: object) -> None:
    from e2ed2.system.errors import one_line

    if num_started() > 1:
        message = f"{message} ({about_process()})"
    print(f"{kind}: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    main()
