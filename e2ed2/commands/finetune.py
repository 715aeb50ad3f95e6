"""`e2ed2 finetune`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import Overrides, join_others, waiting_for
from e2ed2.system.launched import is_first

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 finetune emoji-e2ed2 my_images\n\n"
    "e2ed2 finetune sdxl-turbo my_images --prompt 'a photo of sks dog'\n\n"
    "e2ed2 finetune stabilityai/stable-diffusion-xl-base-1.0 my_images "
    "model.lora='[latent-consistency/lcm-lora-sdxl]' train.max_train_steps=1000"
)


def finetune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", show_default=False,
            help="A few-step model: a folder, a hub id, a baseline (sdxl-turbo, sdxl-lightning, lcm, pixart-delta), or "
            "emoji-lcm, emoji-e2ed2.",
        ),
    ],  # fmt: skip
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", show_default=False,
            help="Your images: a folder, .tar shards, .parquet files, or a data set of the hub; found by looking.",
        ),
    ],  # fmt: skip
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/MODEL-DATA")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps.", show_default="the model's own")] = None,
    prompt: Annotated[str | None, typer.Option(help="Caption of images that have none.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, as a recipe; stop.")] = False,
) -> None:
    """Move a few-step model to your images and keep its steps. The same command again resumes, exactly.

    It trains the sampler that the model is used with: its own steps, timesteps and guidance.
    """
    names = (Path(name).resolve().stem.replace("*", "") for name in (model, data))
    run_dir = out or Path("runs") / "-".join(names)
    with waiting_for(f"nothing new was saved; the same command goes on from what is in {run_dir}") as waiting:
        from e2ed2.finetune.run import choose_finetune
        from e2ed2.finetune.run import finetune as run
        from e2ed2.provenance.label import metadata_label

        join_others()
        waiting("looking at model and data", 0, 0)
        chosen = choose_finetune(model, data, run_dir, steps=steps, prompt=prompt, overrides=overrides or [])
        for reason in chosen.reasons:
            waiting.say(reason)
        if dry_run:
            print(chosen.config.to_yaml(), end="")
            return
        model_folder = run(chosen.config, say=waiting.say, watch=waiting, tick=waiting.tick, label=metadata_label())
    if is_first():
        print(f"model:  {model_folder}\nreport: {run_dir / 'report.html'}")
