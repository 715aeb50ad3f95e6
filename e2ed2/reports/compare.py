"""`e2ed2 compare`: evaluations side by side (Table 1), a table for each protocol, and paired differences to one row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.intervals import Estimate, paired_difference
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.evaluation.results import read_jackknife, read_result
from e2ed2.reports.published import Published, published_figures, published_for
from e2ed2.system.drawing.figures import bracketed, figure
from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.system.errors import UserError


@dataclass(frozen=True)
class Row:
    """One evaluation. `jackknife` is empty where it was not kept with it."""

    path: Path
    result: dict[str, Any]
    jackknife: dict[str, tuple[Tensor, ...]]

    @property
    def label(self) -> str:
        """`emoji-lcm`; of a run folder's model, the run's name with it."""
        model = str(self.result["model"])
        parts = Path(model).parts
        return "/".join(parts[-2:]) if len(parts) > 2 or model.startswith((".", "/")) else model


@dataclass(frozen=True)
class Comparison:
    """The evaluations of one protocol.

    Attributes:
        metrics: the columns.
        others: published methods that none of the rows measures.
        baseline: the row that `differences` are to, where it was asked for and is of this protocol.
        differences: of each other row, metric -> its figure less the baseline's.
        notes: why a row has no differences.
    """

    protocol: str
    sha256: str
    reference: str
    metrics: list[str]
    rows: list[Row]
    others: list[Published]
    baseline: Row | None
    differences: list[tuple[Row, dict[str, Estimate]]]
    notes: list[str]


def compare(
    paths: Sequence[Path], *, baseline: Path | None = None, metrics: Sequence[str] = ()
) -> list[Comparison]:
    """Evaluations by protocol, in the order they are given.

    Args:
        paths: `evaluation.json` files or their folders.
        baseline: one of them; every other row of its protocol gets differences to it.
        metrics: the columns, all for none.
    Raises:
        UserError: an unreadable file, a baseline that is not among them, or a metric that none of them has.
    """
    rows = [Row(path, read_result(path), read_jackknife(path)) for path in paths]
    if baseline is not None and baseline not in paths:
        raise UserError(f"--baseline {baseline}: is not among the evaluations; name one of them as it is given")
    known = list(dict.fromkeys(name for row in rows for name in row.result["metrics"]))
    if unknown := [name for name in metrics if name not in known]:
        raise UserError(f"--metric {unknown[0]}: none of the evaluations has it; there are {', '.join(known)}")
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row.result["protocol_sha256"], []).append(row)
    return [_comparison(sha256, own, baseline, metrics) for sha256, own in tables.items()]


def _comparison(sha256: str, rows: list[Row], baseline: Path | None, metrics: Sequence[str]) -> Comparison:
    first = rows[0].result
    names = list(dict.fromkeys(name for row in rows for name in row.result["metrics"]))
    beside = [found for row in rows if (found := published_for(row.result))]
    base = next((row for row in rows if row.path == baseline), None)
    differences, notes = [], []
    for row in [row for row in rows if base is not None and row is not base]:
        assert base is not None
        if reason := _unpaired(row, base):
            notes.append(f"no differences of {row.label} at {row.result['nfe']} NFE: {reason}")
        else:
            differences.append((row, _differences(row, base)))
    return Comparison(
        protocol=first["protocol"],
        sha256=sha256,
        reference=first["reference"],
        metrics=[name for name in names if not metrics or name in metrics],
        rows=rows,
        others=[row for row in published_figures(first["protocol"]) if row not in beside],
        baseline=base,
        differences=differences,
        notes=notes,
    )


def _unpaired(row: Row, base: Row) -> str:
    """Why two rows cannot be paired, or nothing."""
    if not row.jackknife or not base.jackknife:
        missing = base if not base.jackknife else row
        return f"{missing.path} keeps no jackknife of its own beside it; evaluate again with --out"
    seeds = row.result.get("seed"), base.result.get("seed")
    return f"seeds {seeds[0]} and {seeds[1]} differ" if seeds[0] != seeds[1] else ""


def _differences(row: Row, base: Row) -> dict[str, Estimate]:
    found = {}
    for name in base.result["metrics"]:
        if name in row.jackknife and name in base.jackknife:
            found[name] = paired_difference(_estimate(row, name), _estimate(base, name))
    return found


def _estimate(row: Row, name: str) -> Estimate:
    return Estimate(**row.result["metrics"][name], without=row.jackknife[name])


def heads(comparison: Comparison) -> list[str]:
    """The columns of a table: measured ones, then published ones with their source."""
    size = ["size"] if _has_sizes(comparison) else []
    measured = ["model", *size, "NFE", "images", *(metric_of(name).title for name in comparison.metrics), "images/s"]
    published = [f"{metric_of(name).title}, published" for name in _published_metrics(comparison)]
    return measured + (published + ["source"] if published else [])


def cells(comparison: Comparison) -> list[list[str]]:
    """The rows of a table, published methods that were not measured last."""
    lines, protocol = [], comparison.protocol
    names = _published_metrics(comparison)
    for row in comparison.rows:
        result = row.result
        size = [_size(result.get("num_parameters"))] if _has_sizes(comparison) else []
        line = [row.label, *size, str(result["nfe"] or "-"), f"{result['num_images']:,}"]
        line += [bracketed(result["metrics"].get(name)) for name in comparison.metrics]
        line.append(figure(result["images_per_second"]) if result.get("images_per_second") else "-")
        lines.append(line + _published(published_for(result), protocol, names))
    for other in comparison.others:
        blank = ["-"] * (len(comparison.metrics) + 1)
        lines.append([other.method, other.size, str(other.nfe), "-", *blank, *_published(other, protocol, names)])
    return lines


def difference_titles(comparison: Comparison) -> list[str]:
    """The metrics of a table of differences."""
    return [metric_of(name).title for name in comparison.metrics]


def difference_cells(comparison: Comparison) -> list[list[str]]:
    """Rows of differences; an asterisk where the interval does not hold zero."""
    return [
        [row.label, str(row.result["nfe"]), *(_difference(found.get(name)) for name in comparison.metrics)]
        for row, found in comparison.differences
    ]


def _difference(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    sure = not estimate.low <= 0 <= estimate.high
    return bracketed(estimate.to_json()) + ("*" if sure else "")


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All tables, each under the name and hash of its protocol."""
    parts = []
    for c in comparisons:
        parts.append(f"Protocol `{c.protocol}` ({c.sha256[:12]}), reference: {c.reference}.\n")
        parts.append(markdown_table(heads(c), cells(c)))
        if c.baseline is not None and c.differences:
            base = f"{c.baseline.label} at {c.baseline.result['nfe']} NFE"
            parts.append(f"Less {base}: paired, 95% interval, * where it does not hold zero.\n")
            parts.append(markdown_table(["model", "NFE", *difference_titles(c)], difference_cells(c)))
        parts += [f"{note}.\n" for note in c.notes]
        own = {f"{note}.\n": None for row in c.rows for note in row.result.get("notes", [])}
        parts += list(own)
    return "\n".join(parts)


def to_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The same for a machine."""
    return [
        {
            "protocol": c.protocol,
            "protocol_sha256": c.sha256,
            "rows": [row.result for row in c.rows],
            "differences": [
                {"file": str(row.path), "metrics": {name: e.to_json() for name, e in found.items()}}
                for row, found in c.differences
            ],
            "notes": c.notes,
        }
        for c in comparisons
    ]


def _has_sizes(comparison: Comparison) -> bool:
    return bool(comparison.others) or any("num_parameters" in row.result for row in comparison.rows)


def _published_metrics(comparison: Comparison) -> list[str]:
    rows = published_figures(comparison.protocol)
    return list(dict.fromkeys(name for row in rows for name in row.figures[comparison.protocol]))


def _published(row: Published | None, protocol: str, names: list[str]) -> list[str]:
    if not names:
        return []
    if row is None:
        return ["-"] * (len(names) + 1)
    figures = row.figures[protocol]
    return [f"{figures[name]:.2f}" if name in figures else "-" for name in names] + [row.source]


def _size(parameters: int | None) -> str:
    """`0.61B`, `8.9M`."""
    if parameters is None:
        return "-"
    return f"{parameters / 1e9:.2g}B" if parameters >= 1e8 else f"{parameters / 1e6:.2g}M"
