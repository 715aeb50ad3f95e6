"""`e2ed2 train`."""

from typing import Annotated, Any

import typer

from e2ed2.commands.shared import Overrides, Recipe, join_others, waiting_for
from e2ed2.system.launched import is_first

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 train recipes/emoji/e2ed2.yaml model.path=emoji-lcm\n\n"
    "e2ed2 train recipes/emoji/e2ed2.yaml model.path=emoji-lcm run.dir=runs/try train.lr=5e-5"
)


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and what it names; print it.")] = False,
) -> None:
    """Train a stage. The same command again resumes it, exactly.

    On several GPUs `accelerate launch -m e2ed2.cli train ...`; docs/cluster.md says how, and what a lost one costs.
    """
    from e2ed2.recipe.load import load_config

    join_others()
    config = load_config(recipe, overrides)
    if dry_run:
        _look(config)
        print(config.to_yaml(), end="")
        return
    with waiting_for(f"nothing new was saved; the same command goes on from what is in {config.run.dir}") as waiting:
        from e2ed2.reports.run_page import write_report
        from e2ed2.training.loop import train as run

        waiting("preparing", 0, 0)
        report = config.run.dir / "report.html"
        try:
            model = run(config, waiting.say, waiting.tick, waiting, write_report)
        except KeyboardInterrupt:
            if is_first() and report.exists():
                waiting.say(f"report: {report}")
            raise
        if is_first():
            print(f"model: {model}\nreport: {write_report(config.run.dir)}")


def _look(config: Any) -> None:
    """Whether what the recipe names is there."""
    with waiting_for("") as waiting:
        from e2ed2.training.inputs import check_inputs

        waiting("looking at data and model", 0, 0)
        for name in check_inputs(config):
            waiting.say(f"note: {name} is looked for on the hub when the run begins")
        if config.evaluation.protocol is not None:  # what measures takes seconds to load
            from e2ed2.training.validation import create_validation

            create_validation(config, waiting)
