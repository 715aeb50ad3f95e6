"""Figures from papers, `assets/published.yaml`: shown in columns apart, never as if they were comparable to ours."""

from functools import cache
from pathlib import Path
from typing import Any

from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml

FILE = Path(__file__).parent / "assets" / "published.yaml"


class Published(Part):
    """What a paper says of a method: protocol -> metric -> figure.

    Attributes:
        models: names of evaluations that it stands beside.
    """

    method: str
    models: list[str]
    size: str
    nfe: int
    figures: dict[str, dict[str, float]]
    source: str


class Papers(Part):
    """The file."""

    methods: list[Published]


@cache
def _papers() -> Papers:
    return checked(Papers, read_yaml(FILE, "published figures", FILE.parent), f"published figures {FILE}")


def published_figures(protocol: str) -> list[Published]:
    """All that is known under a protocol, in the papers' order."""
    return [method for method in _papers().methods if protocol in method.figures]


def published_for(result: dict[str, Any]) -> Published | None:
    """What a paper says of an evaluation's model, at its NFE and under a protocol of the same name."""
    rows = published_figures(result["protocol"])
    return next((row for row in rows if result["model"] in row.models and row.nfe == result["nfe"]), None)
