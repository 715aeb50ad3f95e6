"""Bars in SVG, in the manner of `charts`: amounts by name, and how values spread."""

from collections.abc import Sequence
from html import escape

from e2ed2.system.drawing.charts import HEIGHT, LETTER, ROW_HEIGHT, TOP, WIDTH, axes_for, svg_of

GAP = 1.0  # pixels between the bars of a histogram
SHARE = 0.62  # of a chart's width, for bars; the rest is for amounts


def bar_chart(rows: Sequence[tuple[str, float, str, bool]], description: str) -> str:
    """A bar for each row, one below the other.

    Args:
        rows: (label, amount from 0 on, the amount in words, highlighted).
        description: what a reader who cannot see the picture should know.
    """
    left = LETTER * max(len(label) for label, *_ in rows) + 12
    width, most = WIDTH * 2.0, max(amount for _, amount, _, _ in rows) or 1
    parts = []
    for i, (label, amount, words, is_own) in enumerate(rows):
        y, length, own = TOP + ROW_HEIGHT * i, amount / most * (width * SHARE - left), " own" if is_own else ""
        parts.append(f'<text class="tick{own}" x="0" y="{y + ROW_HEIGHT / 2}" dy="4">{escape(label)}</text>')
        size = f'width="{max(length, 1):.1f}" height="{ROW_HEIGHT - 6}"'
        parts.append(f'<rect class="bar{own}" x="{left:g}" y="{y + 3}" {size} rx="2"/>')
        at = left + max(length, 1) + 8
        parts.append(f'<text class="tick" x="{at:.1f}" y="{y + ROW_HEIGHT / 2}" dy="4">{escape(words)}</text>')
    return svg_of(parts, TOP + ROW_HEIGHT * len(rows) + 4, description, width)


def histogram(edges: Sequence[float], counts: Sequence[float], own: Sequence[float], description: str) -> str:
    """How values spread: bars between `edges` [N + 1] for all `counts` [N], and in front of them for `own` [N]."""
    most = max(max(counts), 1)
    parts, place = axes_for([edges[0], edges[-1]], 0, most * 1.04)
    for i, (count, part) in enumerate(zip(counts, own, strict=True)):
        for kind, value in (("bar", count), ("bar own", part)):
            if value:
                (x, y), (right, bottom) = (
                    map(float, place(edges[i + j], at).split(",")) for j, at in ((0, value), (1, 0.0))
                )
                size = f'width="{max(right - x - GAP, 0.5):.1f}" height="{bottom - y:.1f}"'
                parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}/>')
    return svg_of(parts, HEIGHT, description)
