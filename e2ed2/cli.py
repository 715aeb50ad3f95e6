"""The `e2ed2` command: its verbs are in `commands/`, and here every end gets its exit status.

0 done; 1 our fault, or a training that diverged; 2 something the user can mend, on one line; 130 interrupted.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """The entry point: runs a verb and turns every end into its exit status."""
    with _quiet_ctrl_c():
        import typer

        from e2ed2.commands.app import app
        from e2ed2.commands.shared import Interrupted
        from e2ed2.system.errors import OUT_OF_MEMORY, NonFiniteError, UserError, missing_extra, refusal
    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except Interrupted as end:
        status = _say_end("interrupted", end, 130)
    except KeyboardInterrupt:
        status = 130
    except UserError as error:
        status = _say_end("error", error, 2)
    except typer.TyperException as error:  # a mistyped option or a missing argument
        is_help = not error.format_message()  # `e2ed2` alone: all is said
        status = 2 if is_help else _say_end("error", f"{error.format_message()} See `e2ed2 --help`.", 2)
    except NonFiniteError as error:
        status = _say_end("error", error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        status = _say_end("error", f"{OUT_OF_MEMORY} ({str(error).partition('. ')[0]})", 2)
    except ModuleNotFoundError as error:
        if (message := missing_extra(error)) is None:
            raise
        status = _say_end("error", message, 2)
    except BrokenPipeError:  # the reader has had enough: `e2ed2 ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if (message := refusal(error)) is None:
            raise
        status = _say_end("error", message, 2)
    sys.exit(status)


@contextmanager
def _quiet_ctrl_c() -> Iterator[None]:
    """Ctrl-C while modules load, when there is nothing to save: ends at once, without a traceback."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say_end(kind: str, message: object, status: int) -> int:
    print(f"{kind}: {' '.join(str(message).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
