"""`e2ed2 sample`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import BatchSize, Model, Steps, waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
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
    no_label: Annotated[bool, typer.Option("--no-label", help="Write images that do not say they are made.")] = False,
    no_prompt: Annotated[bool, typer.Option("--no-prompt", help="Leave the prompt out of the label.")] = False,
) -> None:
    """Draw images for prompts. Other files in the folder stay; an image that is there is not made again."""
    with waiting_for(f"the images so far are in {out}; the same command goes on") as waiting:
        from functools import partial

        from e2ed2.provenance.label import METADATA_ALONE, full_label, has_extra
        from e2ed2.sampling.folder import check_batch_size, make_files, requests_for
        from e2ed2.sampling.label import UNLABELLED
        from e2ed2.sampling.model import load_model

        requests = requests_for(prompts, num, seed)
        check_batch_size(batch_size)
        label = UNLABELLED if no_label else full_label(with_prompt=not no_prompt)
        if not (no_label or has_extra()):
            waiting.say(METADATA_ALONE)
        waiting(f"loading {model}", 0, 0)
        loaded = load_model(model, steps)
        if loaded.has_filter:
            waiting.say("note: the safety checker of this model is not run")
        for prompt in loaded.too_long(prompts):
            waiting.say(f"note: only the beginning of '{prompt[:40]}...' counts, it is too long for the text encoder")
        progress = partial(waiting, "sampling")
        make_files(loaded, requests, out, batch_size=batch_size, progress=progress, label=label)
    print(f"{len(requests)} images at {loaded.sampler.nfe} NFE: {out / 'grid.png'}")
