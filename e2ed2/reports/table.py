"""Evaluations for people: what each metric means, figures with their intervals, tables for a terminal."""

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

NARROW, WIDE = 80, 140


@dataclass(frozen=True)
class Metric:
    """How to read a metric: a title, a short one for columns, which way is better, one line of meaning.

    Attributes:
        given_samples: its interval holds the samples fixed, and so cannot tell whether two models differ.
    """

    title: str
    short: str
    better: str
    meaning: str
    given_samples: bool = False


METRICS = {
    "kernel_distance": Metric(
        "kernel distance", "KD", "lower",
        "How far samples and real images lie apart in EfficientNet features (KD-EfficientNet). Forgives blur.",
    ),
    "frechet_distance": Metric(
        "Fréchet distance", "FD", "lower",
        "The same with two Gaussians (FD-EfficientNet). Compare only at equal image counts.",
    ),
    "alignment": Metric(
        "alignment", "align", "higher",
        "How well an image fits its caption: mean cosine in a small contrastive head that no training has seen.",
    ),
    "precision": Metric("precision", "prec", "higher", "Share of samples that look like some real image."),
    "recall": Metric(
        "recall", "recall", "higher", "Share of real images that look like some sample: variety.", given_samples=True
    ),
    "coverage": Metric(
        "coverage", "cover", "higher", "Share of real images with a sample in their neighbourhood; harder to fool.",
        given_samples=True,
    ),
    "spread": Metric(
        "spread", "spread", "shown",
        "Pixel deviation between samples of one caption. Near zero, the model ignores its noise.",
    ),
    "sharpness": Metric(
        "sharpness", "sharp", "nearer to 1",
        "Fine detail relative to real images. Blur lowers it and noise raises it, so read it beside the others.",
    ),
}
IMAGE_METRICS = {  # of protocols over files; those that share a name with the above share its meaning
    "fid": Metric("FID", "FID", "lower", "Fréchet distance in Inception features, clean resizing."),
    "fid_legacy": Metric("FID, legacy", "FIDleg", "lower", "The same with the first FID code's resizing."),
    "kid": Metric("KID", "KID", "lower", "Kernel distance in Inception features; unbiased at any count."),
    "fd_dinov2": Metric("FD-DINOv2", "FDdino", "lower", "Fréchet distance in DINOv2 features."),
    "cmmd": Metric("CMMD", "CMMD", "lower", "Kernel distance in CLIP features, times 1000; unbiased at any count."),
    "clip_score": Metric("CLIP score", "CLIP", "higher", "100 times the cosine of image and caption in CLIP."),
    "density": Metric("density", "densit", "higher", "How many real neighbourhoods hold a sample, over their size."),
    "authenticity": Metric(
        "authenticity", "authen", "higher", "Share of samples that are no near copies of a training image."
    ),
    "pickscore": Metric("PickScore", "pick", "higher", "Preference score (arXiv:2305.01569)."),
    "hpsv2": Metric("HPS v2.1", "HPSv2", "higher", "Preference score (arXiv:2306.09341)."),
    "hpsv3": Metric("HPS v3", "HPSv3", "higher", "Preference score (arXiv:2508.03789)."),
    "image_reward": Metric("ImageReward", "reward", "higher", "Preference score (arXiv:2304.05977)."),
}


def metric_of(name: str) -> Metric:
    """How to read a metric of an evaluation, by its key."""
    if name.startswith("style_share/"):
        style = name.partition("/")[2]
        meaning = f"Share of samples whose nearest real image is in {style} style."
        return Metric(f"share of {style}", style[:7], "shown", meaning)
    return (METRICS | IMAGE_METRICS).get(name, Metric(name, name.rpartition(":")[2][:7], "shown", ""))


def is_better(name: str, value: float, than: float) -> bool:
    """Whether one value of a metric is better than another; never where a metric is only shown."""
    better = metric_of(name).better
    if better == "nearer to 1":
        return abs(value - 1) < abs(than - 1)
    return value < than if better == "lower" else value > than if better == "higher" else False


def figure(value: float) -> str:
    """Three significant digits: 0.0123, 1.20, 123, 4567."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".removesuffix(".")


def decimals(estimate: dict[str, float]) -> int:
    """Decimal places worth printing: one or two digits of the interval's half width."""
    half = (estimate["high"] - estimate["low"]) / 2
    return min(6, max(0, -math.floor(math.log10(half / 2)))) if half > 0 else 3


def central(estimate: dict[str, float], beside: dict[str, float] | None = None) -> str:
    """The value, as far as its interval (and that of the figure `beside` it) bears it: `0.12`."""
    return f"{estimate['value']:.{min(decimals(e) for e in (estimate, beside or estimate))}f}"


def half_width(estimate: dict[str, float]) -> str:
    """`±0.02`: half the width of the interval."""
    return f"±{(estimate['high'] - estimate['low']) / 2:.{decimals(estimate)}f}"


def interval(estimate: dict[str, float]) -> str:
    """`0.10 to 0.14`."""
    places = decimals(estimate)
    return f"{estimate['low']:.{places}f} to {estimate['high']:.{places}f}"


def print_evaluation(result: dict[str, Any]) -> None:
    """One evaluation on stdout: a row per metric with its 95% interval and the way that is better."""
    rate = result["images_per_second"]
    speed = f", {figure(rate)} images/s" if rate else ""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("metric", "value", "95% interval", "better"):
        table.add_column(heading, justify="right" if heading == "value" else "left", header_style="bold")
    for name, estimate in result["metrics"].items():
        metric = metric_of(name)
        better = "" if metric.better == "shown" else metric.better
        table.add_row(metric.title, central(estimate), interval(estimate), better)
    console = _console()
    console.print(
        f"{result['model']} under {result['protocol']}: {result['nfe']} NFE, {result['num_images']} images{speed}",
        style="bold", markup=False, soft_wrap=True,
    )
    console.print(table)
    console.print(f"reference: {result['reference']}", markup=False, soft_wrap=True)
    for note in result.get("notes", []):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def evaluation_markdown(result: dict[str, Any]) -> str:
    """One evaluation as Markdown: what was measured, then a row per metric with its 95% interval."""
    rows = []
    for name, estimate in result["metrics"].items():
        metric = metric_of(name)
        better = "" if metric.better == "shown" else metric.better
        rows.append(f"| {metric.title} | {central(estimate)} | {interval(estimate)} | {better} |")
    about = f"Protocol `{result['protocol']}`, {result['num_images']:,} images at {result['nfe']} NFE"
    lines = [f"{about}, seed {result.get('seed', 0)}; reference: {result['reference']}.", ""]
    lines += ["| metric | value | 95% interval | better |", "|---|---|---|---|", *rows]
    return "\n".join([*lines, *(f"\nNote: {note}" for note in result.get("notes", []))]) + "\n"


def print_comparison(rows: list[dict[str, Any]]) -> None:
    """Many evaluations on stdout, a line each: value, and half the width of its 95% interval below it."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("model", "NFE", "images"):
        table.add_column(heading, justify="left" if heading == "model" else "right", header_style="bold")
    for name in names:
        table.add_column(metric_of(name).short, justify="right", header_style="bold", no_wrap=True)
    for row in rows:
        mark = "" if row.get("measured") == "here" else " *"
        cells = [_cell(row["metrics"].get(name)) for name in names]
        table.add_row(f"{row['model']}{mark}", str(row["nfe"]), str(row["num_images"]), *cells)
    console = _console()
    console.print(table)
    if any(row.get("measured") == "shipped" for row in rows):
        console.print("* measured when the model was made; --full measures it here", style="dim")


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{central(estimate)}\n[dim]{half_width(estimate)}[/dim]"


def _console() -> Console:
    """Stdout; where it is no terminal, wide enough that no figure is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal and console.width >= NARROW else Console(highlight=False, width=WIDE)
