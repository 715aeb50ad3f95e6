"""What was measured, as Markdown."""

import textwrap
from typing import Any

from benchmarks.gpu.settings import Setting

Report = dict[str, Any]
METHOD = """Random weights, latents and prompts, in bf16: float32 weights, gradients and Adam moments under
autocast; below a LoRA (rank 64) bf16 weights. Medians of the rounds after a first one. The share of the rate is
what a chain and its gradient need, nothing recomputed, against a bf16 product of two matrices in the same run:"""
RATIOS = """An update is the whole of it: chain, gradient, clipping, AdamW, running average. `chain / K passes` is
the chain and its gradient against K forward and backward passes of the bare network, `chain / diffusers` against
the loop of a diffusers pipeline with its graph kept: both without checkpointing, turn by turn in the same
process."""
FIELDS = tuple(Setting.__dataclass_fields__)


def markdown(report: Report) -> str:
    """A page: the machine, what is right, training, sampling."""
    environment = report["environment"]
    lines = [
        f"# {report['device']}, {report['date']}",
        "",
        f"`{report['command']}`: torch {environment['torch']}, diffusers {environment['diffusers']}, "
        f"Python {environment['python']}, commit {environment['commit']}. {report['state']}.",
        "",
        wrapped(f"{METHOD} {report['matrix_rate'] / 1e12:.1f} TFLOP/s."),
        "",
        "## Is it right?",
        "",
        "| check | found | allowed | |",
        "|---|---|---|---|",
    ]
    for check in report["checks"]:
        found = f"{check['value']:.2g}" if "value" in check else check["status"]
        lines.append(f"| {check['name']} | {found} | {check['allowed']} | {'yes' if check['passed'] else 'NO'} |")
    trained = [row for row in report["rows"] if row["trained"]]
    sampled = [row for row in report["rows"] if not row["trained"]]
    lines += [
        "",
        "## Training",
        "",
        wrapped(RATIOS),
        "",
        "| setting | batch | images/s | peak memory, GiB | share of the rate | chain / K passes | chain / diffusers | "
        "update / K passes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = ("share_of_matrix_rate", "chain_to_bare", "chain_to_diffusers", "update_to_bare")
    lines += [_line(row, names) for row in trained]
    lines += ["", "## Sampling", "", "Four steps and the decoder, in bf16.", ""]
    lines += ["| setting | batch | images/s | peak memory, GiB |", "|---|---|---|---|"]
    lines += [_line(row, ()) for row in sampled]
    lines += _recipes(report["recipes"])
    return "\n".join(lines) + "\n"


def _recipes(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", "## Recipes for one card of 24 GB", "", "One micro-batch, random weights, L2 on latents.", ""]
    lines += ["| recipe | images/s | peak memory, GiB | counted | |", "|---|---|---|---|---|"]
    for row in rows:
        if row["status"] != "done":
            lines.append(f"| {row['recipe']} | {row['status'].replace('|', '/')} | | | |")
            continue
        peak, counted = row["peak_memory_bytes"] / 2**30, row["counted_bytes"] / 2**30
        ratio = f"{counted / peak:.2f}"
        lines.append(f"| {row['recipe']} | {row['images_per_second']:.3g} | {peak:.1f} | {counted:.1f} | {ratio} |")
    return lines


def _line(row: dict[str, Any], names: tuple[str, ...]) -> str:
    setting = Setting(**{name: row[name] for name in FIELDS})
    if row["status"] != "done":
        return f"| {setting} | {setting.batch_size} | {row['status'].replace('|', '/')} |" + " |" * (1 + len(names))
    cells = [f"{row['images_per_second']:.3g}", f"{row['peak_memory_bytes'] / 2**30:.1f}"]
    cells += ["-" if row[name] is None else f"{row[name]:.2f}" for name in names]
    return f"| {setting} | {setting.batch_size} | {' | '.join(cells)} |"


def wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 130, break_on_hyphens=False)
