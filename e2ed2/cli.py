"""The `e2ed2` command: one function per verb, which parses, calls the package and prints.

Everything heavy is imported inside the verbs, so that `e2ed2 --help` answers at once. What a program reads goes to
stdout, everything else to stderr. Exit status: 0 done; 1 our fault, or a training that diverged; 2 something the
user can mend, on one line; 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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

MODEL_HELP = "A model folder, a hub id, or a bundled model: emoji-base, emoji-lcm, emoji-e2ed2."
EVALUATED_HELP = (
    f"{MODEL_HELP} Or a baseline: sdxl, sdxl-turbo, sdxl-lightning, lcm, pixart-delta or a .yaml; a folder of images; "
    "a floor of the emoji protocols: real, autoencoder."
)
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Fields to change.", show_default=False)
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Steps = Annotated[int | None, typer.Option(help="Sampler steps.", show_default="what the model was made for")]
BatchSize = Annotated[int, typer.Option(help="Images made at a time; does not change them.")]


class Interrupted(Exception):
    """Ctrl-C; the message says what was saved."""


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


@contextmanager
def _waiting(saved: str) -> Iterator[Any]:
    """Progress bars for a verb; `saved` tells what Ctrl-C leaves, where the work does not tell it itself."""
    from e2ed2.system.console import Waiting, quiet_libraries

    try:
        with Waiting() as waiting:
            waiting("starting", 0, 0)
            quiet_libraries()
            yield waiting
    except KeyboardInterrupt as error:
        raise Interrupted(str(error) or saved) from None


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    "e2ed2 train recipes/emoji/e2ed2.yaml model.path=emoji-lcm\n\n"
    "e2ed2 train recipes/emoji/e2ed2.yaml model.path=emoji-lcm run.dir=runs/try train.lr=5e-5"
)
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the resolved recipe only.")] = False,
) -> None:
    """Train a stage. The same command again resumes it, exactly."""
    from e2ed2.recipe.load import load_config

    config = load_config(recipe, overrides)
    if dry_run:
        print(config.to_yaml(), end="")
        return
    with _waiting(f"nothing new was saved; {config.run.dir} is as its last checkpoint left it") as waiting:
        from e2ed2.reports.run_page import write_report
        from e2ed2.training.loop import train as run

        waiting("preparing", 0, 0)
        model = run(config, waiting.say, waiting.tick, waiting)
        report = write_report(config.run.dir)
    print(f"model: {model}\nreport: {report}")


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    "e2ed2 precompute recipe.yaml data.source=folder data.path=photos --out photos-cache\n\n"
    "e2ed2 train recipe.yaml data.source=cache data.path=photos-cache"
)
def precompute(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="The cache's folder.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Encode a recipe's images and captions once, for any number of trainings. Again after a kill, it goes on."""
    from e2ed2.recipe.load import load_config

    config = load_config(recipe, overrides)
    with _waiting(f"what was encoded is in {out}; the same command goes on") as waiting:
        from e2ed2.training.latents.precompute import precompute as run

        waiting("preparing", 0, 0)
        run(config, out, waiting.say, waiting)
    print(f"cache: {out}\ntrain on it with: data.source=cache data.path={out}")


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    'e2ed2 sample emoji-e2ed2 "red apple, openmoji style" "smiling cat, twemoji style"\n\n'
    'e2ed2 sample runs/demo/model "rocket" --num 8 --steps 2 --seed 7 --out rockets'
)
def sample(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw.", show_default=False)],
    steps: Steps = None,
    num: Annotated[int, typer.Option(help="Images per prompt.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of a prompt's first image; the next has the next.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for images, grid.png, manifest.json.")] = Path("runs/samples"),
    batch_size: BatchSize = 32,
) -> None:
    """Draw images for prompts. Other files in the folder stay; an image that is there is not made again."""
    with _waiting(f"the images so far are in {out}; the same command goes on") as waiting:
        from functools import partial

        from e2ed2.sampling.folder import make_files, requests_for
        from e2ed2.sampling.model import load_model

        requests = requests_for(prompts, num, seed)
        waiting(f"loading {model}", 0, 0)
        loaded = load_model(model, steps)
        for prompt in loaded.too_long(prompts):
            waiting.say(f"note: only the beginning of '{prompt[:40]}...' counts, it is too long for the text encoder")
        make_files(loaded, requests, out, batch_size=batch_size, progress=partial(waiting, "sampling"))
    print(f"{len(requests)} images at {loaded.sampler.nfe} NFE: {out / 'grid.png'}")


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    "e2ed2 evaluate emoji-e2ed2 --protocol emoji --steps 4\n\n"
    "e2ed2 evaluate runs/demo/model --protocol emoji-heldout --out runs/demo/heldout --json\n\n"
    "e2ed2 evaluate real --protocol emoji [dim]# floor rows: real images, or the autoencoder's copies of them[/dim]\n\n"
    "e2ed2 evaluate autoencoder --protocol emoji"
)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=EVALUATED_HELP, show_default=False)],
    protocol: Annotated[
        str,
        typer.Option(help="emoji, emoji-heldout, emoji-anystyle, coco30k, coco10k-512, hw30k, mjhq30k, or a .yaml."),
    ] = "emoji",
    steps: Steps = None,
    num_images: Annotated[int | None, typer.Option(help="Images to make.", show_default="the protocol's")] = None,
    batch_size: BatchSize = 32,
    seed: Annotated[int, typer.Option(help="Another seed gives every image another noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Keeps samples and result; again, goes on.", show_default="runs/evaluations/PROTOCOL/MODEL"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where a protocol's captions and real images lie.")] = None,
    keep: Annotated[
        Literal["files", "shards", "nothing"],
        typer.Option(help="Images once they are measured: as they are, as WebDataset shards, or not."),
    ] = "files",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Measure a model under a protocol: distance to real images, alignment, variety, sharpness.

    The processes of `accelerate launch -m e2ed2.cli evaluate ...` share the work.
    """
    saved = f"the samples so far are in {out or 'runs/evaluations'}; the same command goes on"
    with _waiting(saved) as waiting:
        import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
        from e2ed2.evaluation.evaluate import evaluate as run

        result = run(
            model, protocol, steps=steps, num_images=num_images, batch_size=batch_size, seed=seed, out=out, data=data,
            keep=keep, watch=waiting,
        )  # fmt: skip
    if as_json and result:
        print(json.dumps(result))
    elif result:
        from e2ed2.reports.table import print_evaluation

        print_evaluation(result)


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    "e2ed2 compare runs/evaluations/coco30k/* --out runs/table1\n\n"
    "e2ed2 compare runs/a runs/b --baseline runs/a --metric fid --metric clip_score --zoom 0.3,0.3,0.25"
)
def compare(
    evaluations: Annotated[
        list[Path],
        typer.Argument(metavar="EVAL...", help="Files that `evaluate` wrote, or their folders.", show_default=False),
    ],
    baseline: Annotated[Path | None, typer.Option(help="One of them: paired differences of the others to it.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A column; repeat for more.", show_default="all")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table.md, compare.html and grids of samples.")] = None,
    num_prompts: Annotated[int, typer.Option(help="Rows of a grid.", min=1)] = 6,
    zoom: Annotated[str | None, typer.Option(help="LEFT,TOP,SIDE of a square to enlarge, as shares.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of tables.")] = False,
) -> None:
    """Evaluations side by side: a table for each protocol, with published figures apart."""
    with _waiting("nothing was lost; the same command begins again") as waiting:
        from e2ed2.reports import compare as comparing
        from e2ed2.reports.compare_page import write_comparison
        from e2ed2.reports.grids import parse_zoom

        square = parse_zoom(zoom)
        waiting("comparing", 0, 0)
        tables = comparing.compare(evaluations, baseline=baseline, metrics=metric or [])
        if out is not None:
            for path in write_comparison(tables, out, num_prompts=num_prompts, zoom=square):
                waiting.say(str(path))
    if as_json:
        print(json.dumps(comparing.to_json(tables)))
    else:
        print(comparing.markdown(tables), end="")


@app.command(epilog="[dim]Examples[/dim]\n\ne2ed2 demo\n\ne2ed2 demo --out runs/short train.max_train_steps=50")
def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Fields of recipes/demo.yaml to change.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    num_images: Annotated[int, typer.Option(help="Images of each evaluation.")] = 512,
    full: Annotated[bool, typer.Option("--full", help="Measure every row here, the shipped ones too.")] = False,
) -> None:
    """Fine-tune the bundled 4-step emoji model end to end, measure it before and after, and write a report.

    Takes a few minutes on a CPU. Again after Ctrl-C it goes on where it stopped.
    """
    with _waiting(f"what was done is in {out}; the same command goes on") as waiting:
        from e2ed2.demo.run import run_demo

        rows = run_demo(
            out, overrides or [], num_images=num_images, full=full, say=waiting.say, watch=waiting, tick=waiting.tick
        )
    from e2ed2.reports.table import print_comparison

    print_comparison(rows)
    print(f"\nmodel:  {out / 'model'}\nreport: {out / 'report.html'}")


@app.command(
    epilog="[dim]Examples[/dim]\n\n"
    "e2ed2 ablate recipes/ablation/table2.yaml\n\n"
    "e2ed2 ablate recipes/ablation/table2.yaml --quick --out runs/ablation/try"
)
def ablate(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="A YAML file of rows.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where all of it goes.", show_default="runs/ablation/NAME")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The suite's small size, minutes on a CPU.")] = False,
) -> None:
    """Train and measure every row of a suite over its seeds: one table. What is done is not done again."""
    folder = out or Path("runs/ablation") / (suite.stem + ("-quick" if quick else ""))
    with _waiting(f"what was done is in {folder}; the same command goes on") as waiting:
        from e2ed2.ablation.run import run_suite
        from e2ed2.ablation.suite import load_suite

        text = run_suite(load_suite(suite, quick), folder, say=waiting.say, watch=waiting, tick=waiting.tick)
    print(text, end="")


if __name__ == "__main__":
    main()
