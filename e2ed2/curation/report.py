"""`report.html`: what was kept and what was not, to be looked at before anything is trained on it."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import yaml
from markupsafe import Markup
from PIL import Image

from e2ed2.curation.audit import Audit, Spread
from e2ed2.curation.items import Item, items_of
from e2ed2.curation.overlap import EvaluationSet
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.work import Work
from e2ed2.data.image_files import IMAGE_FORMATS, to_rgb
from e2ed2.reports.page import data_uri, write_page
from e2ed2.system.drawing.bars import bar_chart, histogram
from e2ed2.system.errors import printable

THUMBNAIL = 160  # pixels
NUM_WORDS, NUM_ROWS, NUM_PAIRS = 60, 12, 16
NUM_BARS = 40
TOLD = {  # the stages in order, and what a row is that has passed one
    "read": "readable", "filter": "its columns", "download": "downloaded", "check": "a whole, still image",
    "deduplicate": "no copy", "score": "scored", "similar": "no near meaning", "select": "selected",
    "caption": "captioned", "write": "written",
}  # fmt: skip


def write_report(work: Work, pipeline: Pipeline, audit: Audit, sets: Sequence[EvaluationSet]) -> None:
    """Write the page, after all steps."""
    sheets = [("Kept", "A few of what was kept, evenly.", _sheet(audit, "kept"))]
    for stage in TOLD:
        if stage in audit.sheets and stage != "deduplicate" and (pictures := _sheet(audit, stage)):
            sheets.append((f"Dropped by {stage}", "A few of what was dropped, evenly, and why.", pictures))
    write_page(
        work.report,
        "curation.html.j2",
        out=work.out,
        source=f"{pipeline.input.source} {pipeline.input.path}",
        audit=audit,
        facts=_facts(audit, pipeline),
        funnel=Markup(_funnel(audit)),
        reasons=[(stage, why, f"{count:,}") for (stage, why), count in audit.reasons.most_common(2 * NUM_ROWS)],
        charts=[(spread.title, Markup(_chart(spread))) for spread in audit.spreads.values() if any(spread.every)],
        sheets=sheets,
        pairs=_pairs(work, audit),
        words=audit.words.most_common(NUM_WORDS),
        people=_people(audit),
        leanings=_leanings(audit),
        overlaps=[_overlap(one) for one in sets],
        domains=_shares(audit.domains.most_common(NUM_ROWS), audit.kept),
        licences=_shares(audit.licences.most_common(NUM_ROWS), audit.kept),
        pipeline=yaml.safe_dump(pipeline.model_dump(mode="json", exclude_defaults=True), sort_keys=False),
    )


def _facts(audit: Audit, pipeline: Pipeline) -> list[str]:
    facts = [f"{audit.kept / audit.read:.2%} of all rows", f"seed {pipeline.seed}"]
    facts += [f"scored by {pipeline.score.model}"] if pipeline.score and pipeline.score.model else []
    return facts + ([f"captioned by {pipeline.caption.model}"] if pipeline.caption else ["captions as they came"])


def _funnel(audit: Audit) -> str:
    dropped = {stage: 0 for stage in TOLD}
    for (stage, _), count in audit.reasons.items():
        dropped[stage] += count
    rows, left = [("rows of the input", float(audit.read), f"{audit.read:,}", False)], audit.read
    for stage, count in dropped.items():
        if count:
            left -= count
            rows.append((TOLD[stage], float(left), f"{left:,}  (-{count:,})", False))
    rows.append(("kept", float(audit.kept), f"{audit.kept:,}", True))
    return bar_chart(rows, f"{audit.read} rows read, {audit.kept} kept")


def _chart(spread: Spread) -> str:
    """Where there is something, in at most `NUM_BARS` bars."""
    filled = [place for place, count in enumerate(spread.every) if count]
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 2, len(spread.every))
    step = -(-(last - first) // NUM_BARS)
    starts = range(first, last, step)
    edges = [spread.edges[0] + (spread.edges[1] - spread.edges[0]) * place for place in (*starts, starts[-1] + step)]
    every, own = ([sum(counts[place : place + step]) for place in starts] for counts in (spread.every, spread.kept))
    return histogram(edges, every, own, f"{spread.title} of all rows and of those kept")


def _sheet(audit: Audit, name: str) -> list[dict[str, str]]:
    pictures = []
    for item in audit.sheets[name].items():
        if image := _thumbnail(item):
            text = item.caption if name == "kept" else item.reason
            pictures.append({"image": image, "name": printable(item.id), "text": printable(text or item.id)})
    return pictures


def _thumbnail(item: Item) -> str:
    """Of an image that can be decoded, as a part of the page."""
    try:
        with Image.open(io.BytesIO(item.read()), formats=IMAGE_FORMATS) as image:
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            to_rgb(image).save(buffer, "JPEG", quality=80)
    except Exception:  # what was dropped is what cannot be decoded, in every manner
        return ""
    return data_uri(buffer.getvalue(), "jpeg")


def _pairs(work: Work, audit: Audit) -> list[dict[str, str]]:
    if "deduplicate" not in audit.sheets:
        return []
    dropped = audit.sheets["deduplicate"].items()[:NUM_PAIRS]
    found = _rows_of(work.step("deduplicate").glob("dropped/*.parquet"), [item.number for item in dropped])
    numbers = dict(zip(found["number"].to_pylist(), found["keeper"].to_pylist(), strict=True))
    keepers = {item.number: item for item in items_of(_rows_of(work.step("check").glob("*.parquet"), numbers.values()))}
    pairs = []
    for item in dropped:
        keeper = keepers[numbers[item.number]]
        if (one := _thumbnail(item)) and (other := _thumbnail(keeper)):
            pairs.append(
                {"dropped": one, "kept": other, "name": printable(item.id), "other": printable(keeper.id),
                 "reason": printable(item.reason or "")}
            )  # fmt: skip
    return pairs


def _rows_of(files: Iterable[Path], numbers: Iterable[int]) -> pa.Table:
    """The rows with these numbers."""
    return ds.dataset(sorted(map(str, files))).to_table(filter=ds.field("number").isin([*numbers]))


def _people(audit: Audit) -> list[tuple[str, ...]]:
    return [
        (group, f"{count:,}", f"{count / audit.kept:.1%}",
         ", ".join(f"{word} ({times:.1f})" for word, _, times in audit.company(group)) or "-")
        for group, count in audit.people.most_common()
    ]  # fmt: skip


def _leanings(audit: Audit) -> list[tuple[str, ...]]:
    return [(word, f"{women:,}", f"{men:,}", f"{women / (women + men):.0%}") for word, women, men in audit.leanings()]


def _overlap(one: EvaluationSet) -> tuple[str, ...]:
    named = "; ".join(printable(f"{name} ({what})") for name, what in one.found) or "-"
    return one.name, f"{one.size:,}", f"{one.num_captions:,}", f"{one.num_images:,}", named


def _shares(rows: Iterable[tuple[str, int]], total: int) -> list[tuple[str, ...]]:
    return [(printable(name), f"{count:,}", f"{count / max(total, 1):.1%}") for name, count in rows]
