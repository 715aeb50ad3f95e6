"""Figures as people read them, no more digits than their 95% interval bears: `{value, low, high}`."""

import math
from collections.abc import Mapping


def figure(value: float) -> str:
    """Three significant digits: 0.0123, 1.20, 123, 4567."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".removesuffix(".")


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 5 min`, `2 d 4 h`: as people tell a time that is left."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(seconds, 1):.0f} s"
    hours, days = minutes // 60, minutes // 1440
    if days >= 2:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def decimals(estimate: Mapping[str, float]) -> int:
    """Decimal places worth printing: one or two digits of the interval's half width."""
    half = (estimate["high"] - estimate["low"]) / 2
    return min(6, max(0, -math.floor(math.log10(half / 2)))) if 0 < half < math.inf else 3


def central(estimate: Mapping[str, float], beside: Mapping[str, float] | None = None) -> str:
    """The value, as far as its interval (and that of the figure `beside` it) bears it: `0.12`."""
    return f"{estimate['value']:.{min(decimals(e) for e in (estimate, beside or estimate))}f}"


def half_width(estimate: Mapping[str, float]) -> str:
    """`±0.02`: half the width of the interval."""
    return f"±{(estimate['high'] - estimate['low']) / 2:.{decimals(estimate)}f}"


def interval(estimate: Mapping[str, float]) -> str:
    """`0.10 to 0.14`."""
    places = decimals(estimate)
    return f"{estimate['low']:.{places}f} to {estimate['high']:.{places}f}"


def bracketed(estimate: Mapping[str, float] | None) -> str:
    """`0.12 [0.10, 0.14]`."""
    if estimate is None:
        return "-"
    places = decimals(estimate)
    return f"{estimate['value']:.{places}f} [{estimate['low']:.{places}f}, {estimate['high']:.{places}f}]"
