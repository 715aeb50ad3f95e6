"""`e2ed2 verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\ne2ed2 verify runs/samples/images/*.png\n\ne2ed2 verify photo.jpg --json [dim]# for a program[/dim]"
)


def verify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Whether images are generated, and by what, as far as their labels tell. No label proves nothing."""
    with waiting_for("nothing is written") as waiting:
        from e2ed2.provenance.verify import verify as run

        findings = []
        for i, path in enumerate(images):
            waiting("verifying", i, len(images))
            findings.append(run(path))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(finding)
