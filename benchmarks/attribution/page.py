"""From the runs to `results/attribution.json`, the tables of docs/attribution.md and the one of README."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.attribution.settings import SETTINGS
from e2ed2.ablation.table import over_seeds
from e2ed2.system.drawing.figures import central, half_width
from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.system.files import write_file

METRICS = {"kernel_distance": "KD", "alignment": "alignment", "recall": "recall", "spread": "spread"}
HEADLINE = {  # what README shows: (setting, length) -> model
    ("teacher", "eighth"): "emoji-base, the teacher",
    ("lcm", "eighth"): "emoji-lcm, the start",
    ("lcm_tuned", "full"): "the best LCM",
    ("recommended", "full"): "emoji-e2ed2",
}
HEADS = ["NFE", "KD", "KD, ResNet", "alignment", "recall", "recall, ResNet", "spread", "seeds", "core-seconds"]
Row = dict[str, Any]


def write_pages(results: Path) -> None:
    """`attribution.json` beside the folder of runs, and the tables of the two pages, from all runs that are there."""
    rows = collected(results)
    write_file(results.with_suffix(".json"), (json.dumps(rows, indent=1) + "\n").encode())
    _replace(Path("docs/attribution.md"), "every setting", _tables(rows))
    _replace(Path("README.md"), "headline", _headline(rows))


def collected(results: Path) -> list[Row]:
    """A row for each setting, length, number of evaluations, kind of captions and network: means over its seeds."""
    found: dict[tuple[Any, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for path in sorted(results.glob("*/*.json")):
        run = json.loads(path.read_text())
        for row in run["rows"]:
            key = (run["setting"], run["length"], row["captions"], row["network"], row["nfe"])
            found[key].append((run, row))
    return [_row(key, found[key]) for key in sorted(found, key=_order)]


def over_runs(estimates: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of some runs with a 95% interval.

    Runs of other seeds share prompts and references: what those might have been, a run's own interval, is added in
    squares to Student's t over the seeds.
    """
    value = fmean(estimate["value"] for estimate in estimates)
    own = fmean(estimate["high"] - estimate["low"] for estimate in estimates) / 2
    seeds = over_seeds([*estimates]) if len(estimates) > 1 else {"low": value, "high": value}
    half = math.hypot(own, (seeds["high"] - seeds["low"]) / 2)
    return {"value": value, "low": value - half, "high": value + half}


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    setting, length, captions, network, nfe = key
    return length, captions != "unseen", network, list(SETTINGS).index(setting), -nfe


def _row(key: tuple[Any, ...], runs: list[tuple[Row, Row]]) -> Row:
    setting, length, captions, network, nfe = key
    seeds = sorted(run["seed"] for run, _ in runs)
    rows = [row for _, row in runs]
    command = f"python -m benchmarks.attribution --only {setting} --seeds {' '.join(map(str, seeds))}"
    return {
        "setting": setting, "nfe": nfe, "captions": captions, "network": network, "length": length,
        "seeds": len(seeds), "num_images": rows[0]["num_images"],
        "network_evaluations": round(fmean(run["network_evaluations"] for run, _ in runs)),
        "wall_seconds": round(fmean(run["wall_seconds"] for run, _ in runs), 1),
        **{name: over_runs([row[name] for row in rows]) for name in METRICS if name in rows[0]},
        "command": command + (" --full" if length == "full" else ""),
    }  # fmt: skip


def _tables(rows: list[Row]) -> str:
    """Unseen captions first, the two networks side by side."""
    text = []
    for length, title in (("eighth", "an eighth of full length"), ("full", "full length")):
        for captions in ("unseen", "seen"):
            lines = _lines([row for row in rows if (row["length"], row["captions"]) == (length, captions)])
            if lines:
                text += [f"**{captions.capitalize()} captions, {title}**\n", markdown_table(["setting", *HEADS], lines)]
    return "\n".join(text)


def _headline(rows: list[Row]) -> str:
    shown = [row for row in rows if (row["setting"], row["length"]) in HEADLINE]
    text = []
    for captions in ("unseen", "seen"):
        lines = _lines([row for row in shown if row["captions"] == captions])
        names = {setting: name for (setting, _), name in HEADLINE.items()}
        lines = [[names[line[0]], *line[1:-2]] for line in lines]
        if lines:
            text += [f"**Captions {'never seen' if captions == 'unseen' else 'seen'} in training**\n",
                     markdown_table(["model", *HEADS[:-2]], lines)]  # fmt: skip
    return "\n".join(text)


def _lines(rows: list[Row]) -> list[list[str]]:
    """Cells of each setting and number of evaluations, of both networks."""
    both: dict[tuple[str, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        both[row["setting"], row["nfe"]][row["network"]] = row
    lines = []
    for (setting, nfe), found in sorted(both.items(), key=lambda item: (-item[0][1], list(SETTINGS).index(item[0][0]))):
        first, second = found["EfficientNet-lite0"], found["ResNet-50"]
        figures = [first["kernel_distance"], second["kernel_distance"], first["alignment"], first["recall"],
                   second["recall"], first["spread"]]  # fmt: skip
        cells = [f"{central(figure)} {half_width(figure)}" for figure in figures]
        lines.append([setting, str(nfe), *cells, str(first["seeds"]), f"{first['wall_seconds']:,.0f}"])
    return lines


def _replace(page: Path, name: str, text: str) -> None:
    """What stands between a page's marks of a name."""
    before, begin, rest = page.read_text().partition(f"<!-- {name}: made by benchmarks/attribution -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not begin or not end:
        raise SystemExit(f"{page}: has no marks of '{name}'")
    write_file(page, (before + begin + text + end + after).encode())
