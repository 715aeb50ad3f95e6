"""`e2ed2 verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 verify runs/samples/images/*.png\n\n"
    "e2ed2 verify photo.jpg --json [dim]# for a program[/dim]"
)


def verify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Whether images are generated, and by what, as far as their labels tell. No label proves nothing."""
    findings, errors = [], []
    with waiting_for("nothing is written") as waiting:
        from e2ed2.provenance.verify import in_words
        from e2ed2.provenance.verify import verify as run
        from e2ed2.system.errors import UserError

        for i, path in enumerate(images):
            waiting("looking at images", i, len(images))
            try:
                findings.append(run(path))
            except UserError as error:
                errors.append(error)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], allow_nan=False))
    elif findings:
        print("\n".join(map(in_words, findings)))
    if errors:
        others = f" (and {len(errors) - 1} more that cannot be read)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{others}")
