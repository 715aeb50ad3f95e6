"""Figures from papers, `assets/published.yaml`: shown in columns apart, never as if they were comparable to ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "assets" / "published.yaml"


@dataclass(frozen=True)
class Published:
    """What a paper says of a method under a protocol of this name: metric -> figure."""

    method: str
    models: list[str]
    size: str
    nfe: int
    figures: dict[str, float]
    source: str


def published_figures(protocol: str) -> list[Published]:
    """All that is known under a protocol, in the papers' order."""
    found = []
    for paper in yaml.safe_load(FILE.read_text()):
        for row in paper["methods"]:
            if protocol in row:
                about = {name: row[name] for name in ("method", "models", "size", "nfe")}
                found.append(Published(**about, figures=row[protocol], source=paper["source"]))
    return found


def published_for(result: dict[str, Any]) -> Published | None:
    """What a paper says of an evaluation's model, at its NFE and under a protocol of the same name."""
    rows = published_figures(result["protocol"])
    return next((row for row in rows if result["model"] in row.models and row.nfe == result["nfe"]), None)
