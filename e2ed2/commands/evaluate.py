"""`e2ed2 evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from e2ed2.commands.shared import EVALUATED_HELP, BatchSize, Steps, join_others, waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 evaluate emoji-e2ed2 --protocol emoji --steps 4\n\n"
    "e2ed2 evaluate runs/demo/model --protocol emoji-heldout --out runs/demo/heldout --json\n\n"
    "e2ed2 evaluate real [dim]# a floor: real images; or autoencoder, its copies of them[/dim]"
)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=EVALUATED_HELP, show_default=False)],
    protocol: Annotated[
        str,
        typer.Option(help="emoji, emoji-unseen, emoji-anystyle, coco30k, coco10k-512, hw30k, mjhq30k, or a .yaml."),
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

    What is measured bears no mark in its pixels: the images that are made say in their metadata alone what they are.
    The processes of `accelerate launch -m e2ed2.cli evaluate ...` share the work.
    """
    saved = f"the samples so far are in {out or 'runs/evaluations'}; the same command goes on"
    with waiting_for(saved) as waiting:
        join_others()
        import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
        from e2ed2.evaluation.evaluate import evaluate as run
        from e2ed2.provenance.label import metadata_label

        result = run(
            model, protocol, steps=steps, num_images=num_images, batch_size=batch_size, seed=seed, out=out, data=data,
            keep=keep, watch=waiting, label=metadata_label(),
        )  # fmt: skip
    if as_json and result:
        print(json.dumps(result))
    elif result:
        from e2ed2.reports.table import print_evaluation

        print_evaluation(result)
