"""What `e2ed2 compare --out DIR` writes: `table.md`, a grid for each protocol, and all of it as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from e2ed2.reports.compare import Comparison, cells, difference_cells, difference_titles, heads, markdown
from e2ed2.reports.grids import common_samples
from e2ed2.reports.page import data_uri, write_page
from e2ed2.system.drawing.pictures import Zoom, labelled_grid, png_bytes
from e2ed2.system.files import write_file


def write_comparison(
    comparisons: Sequence[Comparison], out: Path, *, num_prompts: int = 6, zoom: Zoom | None = None
) -> list[Path]:
    """Write `table.md`, `grid-PROTOCOL.png` where samples were kept, and `compare.html`; returns the files.

    Args:
        num_prompts: rows of a grid. zoom: a square of each picture to enlarge beside it.
    Raises:
        UserError: `out` cannot be written.
    """
    written, sections = [out / "table.md"], []
    write_file(out / "table.md", markdown(comparisons).encode())
    for c in comparisons:
        folders = {f"{row.label}, {row.result['nfe']} NFE": _folder(row.path) for row in c.rows}
        columns = common_samples(folders, num_prompts)
        png = png_bytes(labelled_grid(columns, zoom)) if columns else b""
        if png:
            written.append(out / f"grid-{c.protocol}-{c.sha256[:6]}.png")
            write_file(written[-1], png)
        sections.append(_section(c, png))
    return [*written, write_page(out / "compare.html", "compare.html.j2", comparisons=sections)]


def _folder(evaluation: Path) -> Path:
    return evaluation if evaluation.is_dir() else evaluation.parent


def _section(c: Comparison, grid: bytes) -> dict[str, object]:
    """A protocol's part of the page."""
    columns = heads(c)
    own = [note for row in c.rows for note in row.result.get("notes", [])]
    base = f"{c.baseline.label} at {c.baseline.result['nfe']} NFE" if c.baseline else ""
    return {
        "protocol": c.protocol,
        "sha256": c.sha256,
        "reference": c.reference,
        "heads": columns,
        "published": [head for head in columns if head.endswith(", published") or head == "source"],
        "lines": cells(c),
        "baseline": base,
        "titles": difference_titles(c),
        "differences": difference_cells(c),
        "notes": list(dict.fromkeys([*c.notes, *own])),
        "grid": data_uri(grid) if grid else "",
    }
