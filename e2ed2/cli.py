"""The `e2ed2` command: its verbs are in `commands/`, and here every end gets its exit status.

0 done; 1 our fault, or a training that diverged; 2 something the user can mend, on one line; 130 interrupted.
"""

import os
import sys

import typer

from e2ed2.commands import ablate, compare, demo, evaluate, precompute, sample, train
from e2ed2.commands.shared import Interrupted
from e2ed2.system.errors import OUT_OF_MEMORY, NonFiniteError, UserError, refusal

app = typer.Typer(
    help="Few-step text-to-image generators by end-to-end training of the whole sampler.",
    epilog="Start with: [bold]e2ed2 demo[/bold]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    train.train, precompute.precompute, sample.sample, evaluate.evaluate, compare.compare, demo.demo, ablate.ablate,
):  # fmt: skip
    app.command(epilog=sys.modules[verb.__module__].EXAMPLES)(verb)


def main() -> None:
    """The entry point: runs a verb and turns every end into its exit status."""
    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except Interrupted as end:
        status = _say_end("interrupted", end, 130)
    except UserError as error:
        status = _say_end("error", error, 2)
    except typer.TyperException as error:  # a mistyped option or a missing argument
        status = _say_end("error", f"{error.format_message()} See `e2ed2 --help`.", 2)
    except NonFiniteError as error:
        status = _say_end("error", error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        status = _say_end("error", f"{OUT_OF_MEMORY} ({str(error).partition('. ')[0]})", 2)
    except BrokenPipeError:  # the reader has had enough: `e2ed2 ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if (message := refusal(error)) is None:
            raise
        status = _say_end("error", message, 2)
    sys.exit(status)


def _say_end(kind: str, message: object, status: int) -> int:
    print(f"{kind}: {' '.join(str(message).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
