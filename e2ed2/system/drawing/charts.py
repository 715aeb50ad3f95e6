"""Small SVG charts, drawn by hand so that a page's style sheet colours them in light and dark.

Classes that a page must style: `axis` (lines), `tick` (text), `raw`, `smooth` (curves), `points`, `line` (of several,
in their own colours), `band`, `whisker`, `dot`, `mark`, `own` (the highlighted row); `win`, `tie`, `loss` (areas,
`limits` of them, and text `within`).
"""

import math
from collections.abc import Callable, Mapping
from html import escape
from itertools import accumulate
from typing import NamedTuple

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 26  # LEFT: at least, where labels need no more
ROW_HEIGHT, LABEL_WIDTH, LETTER = 20, 76, 6.5  # LETTER: width of one at the size of a tick
MAX_POINTS = 600  # of a curve, on a chart of 360 pixels that a page may draw at twice the size
OUTCOMES = ("win", "tie", "loss")
BAR, BAR_ROW, BAR_WIDTH, LEAST_LABELLED = 24, 45, 440, 30  # heights of a bar and its row; widths of all and of a label
STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 11px; background: #fff }
.title { font-size: 13px; font-weight: 600; fill: #1a1a1a }
.tick { fill: #444 } .axis { stroke: #e3e3e3 } .mark { stroke: #999; stroke-dasharray: 3 3 }
.whisker { stroke: #6b7fa8; stroke-width: 2 } .dot { fill: #33528c }
.band { fill: #33528c; opacity: 0.15 }
.points { fill: none; stroke-width: 3.5; stroke-linecap: round; opacity: 0.45 } .line { fill: none; stroke-width: 2 }
.raw, .smooth { fill: none; stroke: #33528c; stroke-width: 2 } .raw { opacity: 0.3 }
.tick.own { font-weight: 600 } .whisker.own { stroke: #d98a3d } .dot.own { fill: #b35c00 }
.win { fill: #33528c } .tie { fill: #d5d7dd } .loss { fill: #e2924a } .limits { fill: none; stroke-width: 1.5 }
.limits.win { stroke: #33528c } .limits.loss { stroke: #c06a1d }
.within { fill: #1a1a1a; font-weight: 600 } .within.win { fill: #fff }
"""  # of charts that stand alone


class Outcome(NamedTuple):
    """A bar: shares of win, tie and loss; the interval of where `win` ends and `loss` begins along it, 0 to 1."""

    label: str
    shares: tuple[float, float, float]
    limits: Mapping[str, tuple[float, float]]


def line_chart(xs: list[float], ys: list[float], description: str, *, is_noisy: bool = True) -> str:
    """A curve over steps; a noisy one faintly, with a running mean over it.

    Args:
        xs: ascending, [N]; ys: [N], finite.
        description: what a reader who cannot see the picture should know.
    """
    curves = [("raw", ys), ("smooth", running_mean(ys))] if is_noisy else [("smooth", ys)]
    axes, place = axes_for(xs, *_limits(ys, is_noisy))
    parts = [_polyline(kind, [place(x, y) for x, y in thinned(xs, values)]) for kind, values in curves]
    return svg_of(axes + parts, HEIGHT, description)


def lines_chart(lines: Mapping[str, tuple[list[float], list[float]]], description: str) -> str:
    """Several noisy curves over steps: the values of each as dots, their running mean as a line, names below.

    Args:
        lines: name -> (steps, ascending, [N]; values, finite, [N]). Colours go from the first to the last.
        description: as in `line_chart`.
    """
    every = [y for _, ys in lines.values() for y in ys]
    axes, place = axes_for([x for xs, _ in lines.values() for x in xs], *_limits(every))
    dots, curves, names = [], [], []
    left, top = 0.0, float(HEIGHT)
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        colour = f"hsl({250 - 215 * i / max(len(lines) - 1, 1):.0f}, 60%, 52%)"  # blue to orange, on light and on dark
        points = [place(x, y) for x, y in thinned(xs, ys)]
        dots.append(f'<path class="points" stroke="{colour}" d="{"".join(f"M{point}h0" for point in points)}"/>')
        smooth = " ".join(place(x, y) for x, y in thinned(xs, running_mean(ys)))
        curves.append(f'<polyline class="line" stroke="{colour}" points="{smooth}"/>')
        width = LETTER * len(name) + 34
        if left and left + width > WIDTH:
            left, top = 0.0, top + ROW_HEIGHT
        names.append(f'<path class="line" stroke="{colour}" d="M{left:g},{top + 4:g}h14"/>')
        names.append(f'<text class="tick" x="{left + 19:g}" y="{top + 8:g}">{escape(name)}</text>')
        left += width
    return svg_of(axes + dots + curves + names, top + ROW_HEIGHT, description)


def band_chart(xs: list[float], rows: list[tuple[float, float, float]], best: int, description: str) -> str:
    """A few measured values over steps, their intervals as a band.

    Args:
        xs: ascending, [N], N >= 2. rows: (value, low, high) of each.
        best: which of them is marked.
    """
    values, lows, highs = (list(column) for column in zip(*rows, strict=True))
    pad = (max(highs) - min(lows) or 1) * 0.06
    axes, place = axes_for(xs, min(lows) - pad, max(highs) + pad)
    edge = list(zip([*xs, *reversed(xs)], [*highs, *reversed(lows)], strict=True))
    outline = " ".join(place(x, y) for x, y in edge)
    points = [place(x, y) for x, y in zip(xs, values, strict=True)]
    parts = [f'<polygon class="band" points="{outline}"/>', _polyline("smooth", points)]
    for i, point in enumerate(points):
        (cx, cy), (own, radius) = point.split(","), (" own", 5) if i == best else ("", 3)
        parts.append(f'<circle class="dot{own}" cx="{cx}" cy="{cy}" r="{radius}"/>')
    return svg_of(axes + parts, HEIGHT, description)


def interval_chart(
    rows: list[tuple[str, float, float, float, bool]], description: str, mark: float | None = None
) -> str:
    """A dot and its interval for each row, one below the other.

    Args:
        rows: (label, value, low, high, highlighted).
        mark: a value to draw a line at, such as that of real images.
    """
    label_width = max(LABEL_WIDTH, LETTER * max(len(label) for label, *_ in rows) + 12)
    values = [v for _, value, low, high, _ in rows for v in (value, low, high)] + ([] if mark is None else [mark])
    least, most = min(values), max(values)
    pad = (most - least or abs(most) or 1) * 0.06
    least, most = least - pad, most + pad
    width = WIDTH - LABEL_WIDTH + label_width
    bottom = TOP + ROW_HEIGHT * len(rows)

    def place(value: float) -> str:
        return f"{label_width + (value - least) / (most - least) * (width - label_width - RIGHT):.1f}"

    parts = []
    for x in ticks(least, most, 4):
        parts.append(f'<line class="axis" x1="{place(x)}" x2="{place(x)}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{place(x)}" y="{bottom + 16}" text-anchor="middle">{_label(x)}</text>')
    if mark is not None:
        parts.append(f'<line class="mark" x1="{place(mark)}" x2="{place(mark)}" y1="{TOP}" y2="{bottom}"/>')
    for i, (label, value, low, high, is_own) in enumerate(rows):
        y = TOP + ROW_HEIGHT * (i + 0.5)
        own = " own" if is_own else ""
        parts.append(f'<text class="tick{own}" x="0" y="{y}" dy="4">{escape(label)}</text>')
        parts.append(f'<line class="whisker{own}" x1="{place(low)}" x2="{place(high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot{own}" cx="{place(value)}" cy="{y}" r="4"/>')
    return svg_of(parts, bottom + BOTTOM, description, width)


def outcome_chart(rows: list[Outcome], names: tuple[str, str, str], description: str) -> str:
    """Stacked bars of win, tie and loss, one below the other, with intervals of win and loss under them.

    Args:
        names: of the three, for the legend.
    """
    label_width = max(LABEL_WIDTH, LETTER * max(len(row.label) for row in rows) + 12)
    width = label_width + BAR_WIDTH + RIGHT + 8
    parts, left = [], label_width
    for kind, name in zip(OUTCOMES, names, strict=True):
        parts.append(f'<rect class="{kind}" x="{left:g}" y="2" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="tick" x="{left + 16:g}" y="12">{escape(name)}</text>')
        left += LETTER * len(name) + 36
    width, top = max(width, left), 26
    bottom = top + BAR_ROW * len(rows) + 2
    for tenth in range(0, 11, 2):
        x = f"{label_width + BAR_WIDTH * tenth / 10:g}"
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{tenth * 10}%</text>')
    for i, row in enumerate(rows):
        y = top + BAR_ROW * i + 4
        parts.append(f'<text class="tick" x="0" y="{y + BAR / 2:g}" dy="4">{escape(row.label)}</text>')
        begin = label_width
        for kind, share in zip(OUTCOMES, row.shares, strict=True):
            long = BAR_WIDTH * share
            parts.append(f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{long:.1f}" height="{BAR}"/>')
            if long >= LEAST_LABELLED:
                at = f'x="{begin + long / 2:.1f}" y="{y + BAR / 2:g}" dy="4" text-anchor="middle"'
                parts.append(f'<text class="within {kind}" {at}>{100 * share:.0f}%</text>')
            begin += long
        for kind, (low, high) in row.limits.items():
            x1, x2 = label_width + BAR_WIDTH * low, label_width + BAR_WIDTH * high
            below = y + BAR + (4 if kind == "win" else 9)
            parts.append(f'<path class="limits {kind}" d="M{x1:.1f},{below - 2}v4m0,-2H{x2:.1f}m0,-2v4"/>')
    return svg_of(parts, bottom + BOTTOM, description, width)


def figure(charts: list[tuple[str, str]]) -> str:
    """Charts (title, SVG) side by side as one SVG file with its own style sheet."""
    parts, right, height = [], 0.0, 0.0
    for title, chart in charts:
        width, tall = (float(n) for n in chart.partition('viewBox="0 0 ')[2].partition('"')[0].split())
        parts.append(f'<text class="title" x="{right:g}" y="16">{escape(title)}</text>')
        parts.append(chart.replace("<svg ", f'<svg x="{right:g}" y="24" width="{width:g}" height="{tall:g}" ', 1))
        right, height = right + width + 24, max(height, tall + 24)
    box = f'width="{right:g}" height="{height:g}" viewBox="0 0 {right:g} {height:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}><style>{STYLE}</style>{"".join(parts)}</svg>\n'


def thinned(xs: list[float], ys: list[float]) -> list[tuple[float, float]]:
    """The points of a curve, of a long one at most `MAX_POINTS`: the least and the greatest of each stretch."""
    count = len(ys)
    if count <= MAX_POINTS:
        return list(zip(xs, ys, strict=True))
    stretches = MAX_POINTS // 2
    kept = set()
    for i in range(stretches):
        stretch = range(i * count // stretches, (i + 1) * count // stretches)
        kept |= {min(stretch, key=ys.__getitem__), max(stretch, key=ys.__getitem__)}
    return [(xs[i], ys[i]) for i in sorted(kept)]


def running_mean(ys: list[float]) -> list[float]:
    """Mean over a window of about a tenth of the values, centred, narrower towards both ends."""
    sums = [0.0, *accumulate(ys)]
    reach = len(ys) // 20
    smooth = []
    for i in range(len(ys)):
        half = min(reach, i, len(ys) - 1 - i)
        smooth.append((sums[i + half + 1] - sums[i - half]) / (2 * half + 1))
    return smooth


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between low and high: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def axes_for(xs: list[float], low: float, high: float) -> tuple[list[str], Callable[[float, float], str]]:
    """Grid lines and labels for steps `xs` and values from low to high, and where (x, y) then lies: `12.3,45.6`."""
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    labels = {y: _label(y) for y in ticks(low, high, 4)}
    left = max([LEFT, *(LETTER * len(label) + 10 for label in labels.values())])

    def place(x: float, y: float) -> str:
        px = left + (x - x_low) / (x_high - x_low) * (WIDTH - left - RIGHT)
        py = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{px:.1f},{min(max(py, TOP), HEIGHT - BOTTOM):.1f}"

    parts = []
    for y, label in labels.items():
        at = place(x_low, y).split(",")[1]
        parts.append(f'<line class="axis" x1="{left:g}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{left - 6:g}" y="{at}" dy="4" text-anchor="end">{label}</text>')
    for x in ticks(x_low, x_high, 5):
        at = place(x, low).split(",")[0]
        parts.append(f'<text class="tick" x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{_label(x)}</text>')
    return parts, place


def _polyline(kind: str, points: list[str]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(points)}"/>'


def _label(value: float) -> str:
    """A tick's number, short: 0.02, 250, 12000, 1e-5."""
    text = f"{value:g}" if abs(value) >= 1e6 or 0 < abs(value) < 1e-3 else f"{value:.12g}"
    return text.replace("e-0", "e-").replace("e+0", "e+")


def _limits(ys: list[float], is_noisy: bool = True) -> tuple[float, float]:
    """Where 98% of noisy values lie, with room: a few extreme steps must not flatten the curve. All of exact ones."""
    ordered = sorted(ys)
    cut = len(ys) // 100 if is_noisy else 0
    low, high = ordered[cut], ordered[len(ys) - 1 - cut]
    pad = (high - low or abs(high) or 1) * 0.08
    return low - pad, high + pad


def svg_of(parts: list[str], height: float, description: str, width: float = WIDTH) -> str:
    label = escape(description, quote=True)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
