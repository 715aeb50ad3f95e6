"""The `e2ed2` command: its verbs are in `commands/`, and here every end gets its exit status.

0 done; 1 our fault, or a training that diverged; 2 something the user can mend, on one line; 130 interrupted.
"""

import os
import sys

from e2ed2.system.signals import interruptible


def main() -> None:
    """The entry point: runs a verb and turns every end into its exit status."""
    try:
        with interruptible(""):
            status = _run()
    except KeyboardInterrupt:  # there was nothing to save
        status = 130
    sys.exit(status)


def _run() -> int:
    import typer

    from e2ed2.commands.app import app
    from e2ed2.commands.shared import Interrupted
    from e2ed2.system.errors import NonFiniteError, UserError, missing_extra, out_of_memory, refusal

    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
        return status
    except Interrupted as end:
        return _say_end("interrupted", end, 130)
    except UserError as error:
        return _say_end("error", error, 2)
    except typer.TyperException as error:  # a mistyped option or a missing argument
        if not error.format_message():  # `e2ed2` alone: its help was shown
            return 2
        return _say_end("error", f"{error.format_message()} See `e2ed2 --help`.", 2)
    except NonFiniteError as error:
        return _say_end("error", error, 1)
    except (RuntimeError, MemoryError, ImportError) as error:
        if (message := out_of_memory(error) or missing_extra(error)) is None:
            raise
        return _say_end("error", message, 2)
    except BrokenPipeError:  # the reader has had enough: `e2ed2 ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if (message := refusal(error)) is None:
            raise
        return _say_end("error", message, 2)


def _say_end(kind: str, message: object, status: int) -> int:
    from e2ed2.system.errors import one_line

    print(f"{kind}: {one_line(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
