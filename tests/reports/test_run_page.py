"""The report: one self-contained page, honest verdicts, charts that show what they are given."""

import base64
import io
import json
import math
import os
import re
import shlex
import socket
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from e2ed2.demo.page import compared
from e2ed2.recipe.load import build_config, load_config
from e2ed2.reports.curves import by_start, curves_of
from e2ed2.reports.next_steps import commands, differences
from e2ed2.reports.previews import previews
from e2ed2.reports.run_page import _read, write_report
from e2ed2.reports.run_state import told
from e2ed2.reports.table import print_comparison
from e2ed2.sampling.folder import save_images
from e2ed2.system.drawing.charts import MAX_POINTS, interval_chart, line_chart, running_mean, thinned, ticks
from e2ed2.system.drawing.figures import central, figure, interval
from e2ed2.system.drawing.pictures import image_grid
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.files import locked
from e2ed2.training.journal.state import RunState, write_state
from e2ed2.training.log import read_metrics, write_preview

VOID = {"meta", "img", "br", "line", "circle", "polyline", "input"}


class Page(HTMLParser):
    """Elements of a page; fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def evaluation(model: str, nfe: int, distance: float, **more: object) -> dict[str, object]:
    metrics = {
        "kernel_distance": {"value": distance, "low": distance - 0.1, "high": distance + 0.1},
        "sharpness": {"value": 0.9, "low": 0.8, "high": 1.0},
    }
    row = {"model": model, "protocol": "emoji", "nfe": nfe, "num_images": 512, "reference": "r", "metrics": metrics}
    row["protocol_sha256"] = "a" * 64
    return {**row, "measured": "here", "command": f"e2ed2 evaluate {model}", **more}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder as training leaves it: 40 steps, three previews."""
    (tmp_path / "config.yaml").write_text("stage: e2ed2\nrun: {dir: x}\n")
    (tmp_path / "environment.json").write_text('{"torch": "2.13.0"}')
    rows = [
        {"global_step": i, "images_seen": 16 * i, "patch_energy": 5 / i, "total": 5 / i, "lr": 1e-4, "grad_norm": 1.0,
         "images_per_second": 32.0, "peak_memory_bytes": 2**30}
        for i in range(1, 41)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "samples").mkdir()
    for step in (0, 20, 40):
        image_grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), 2).save(tmp_path / "samples" / f"step-{step:06d}.png")
    return tmp_path


def with_sheets(run_dir: Path, beside: str = "real") -> None:
    """Previews that say what is on them: four captions, the samples of step 40 white."""
    grey = torch.full((4, 3, 64, 64), 90, dtype=torch.uint8)
    captions = ["a red <fox>", "рыжая лиса", "dog", "a bus"]
    for step in (0, 20, 40):
        write_preview(
            run_dir / "samples" / f"step-{step:06d}.png", Sheet(captions, {beside: grey, "sample": grey + 4 * step})
        )


def with_starts(run_dir: Path, *places: str) -> None:
    """Metrics of chains that began at `places` in turn, `1_of_4`; earlier starts lose more."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        place = places[i % len(places)]
        row |= {f"chains/from_{place}": 1, f"total/from_{place}": row["total"]}
        row[f"patch_energy/from_{place}"] = row["patch_energy"]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def after_demo(run_dir: Path, prompt: str = "red apple") -> None:
    rows = [evaluation("lcm", 4, 1.3), evaluation("demo", 4, 0.7), evaluation("teacher", 50, 1.0, measured="shipped")]
    (run_dir / "metrics.json").write_text(json.dumps(rows))
    (run_dir / "floors.json").write_text(json.dumps([evaluation("real", 0, 0.1, measured="shipped")]))
    images = torch.arange(2)[:, None, None, None].expand(2, 3, 8, 8).to(torch.uint8) * 100
    for kind in ("real", "before", "after"):
        save_images(run_dir / "evaluation" / kind, kind, images, [prompt, "bus"])


def test_a_training_run_gets_a_page_with_curves_and_previews(run_dir):
    page = Page(write_report(run_dir).read_text())
    assert len(page.all("svg")) == 3, "one loss (its total is itself), gradient norm, learning rate"
    assert [image["alt"] for image in page.all("img")] == [f"Preview grid after {n} updates" for n in (0, 20, 40)]
    assert page.all("table") == []


def test_previews_with_captions_become_before_and_after_and_rows_over_time(run_dir):
    with_sheets(run_dir)
    text = write_report(run_dir).read_text()
    page = Page(text)
    alts = [image["alt"] for image in page.all("img")]
    assert alts[:3] == [
        "Real image of a red <fox>",
        "Sample before training, a red <fox>, same noise",
        "Sample after training, a red <fox>, same noise",
    ]
    assert alts[12:16] == [f"a red <fox>, {head}" for head in ("real", 0, 20, 40)] and len(alts) == 12 + 16
    assert "Before and after" in text and "рыжая лиса" in text and "after 40 updates" in text
    shades = []
    for image in page.all("img")[:3]:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            shades.append((picture.width, picture.convert("RGB").getpixel((9, 9))[0]))
    assert shades == [(128, 90), (128, 90), (128, 250)]


def test_what_stands_beside_is_called_what_it_is(run_dir):
    with_sheets(run_dir, beside="autoencoder's copy")
    page = Page(write_report(run_dir).read_text())
    assert page.all("img")[0]["alt"] == "autoencoder's copy of a red <fox>"


def test_a_damaged_preview_leaves_a_page_of_whole_pictures(run_dir):
    with_sheets(run_dir)
    (run_dir / "samples" / "step-000020.png").write_bytes(b"torn")
    page = Page(write_report(run_dir).read_text())
    assert [image["alt"] for image in page.all("img")] == [f"Preview grid after {n} updates" for n in (0, 20, 40)]


def test_terms_are_drawn_by_the_start_of_their_chains(run_dir):
    with_starts(run_dir, "1_of_1", "2_of_2", "1_of_2")
    curves = curves_of(read_metrics(run_dir / "metrics.jsonl"))
    assert [(curve["title"], curve["by_start"]) for curve in curves] == [
        ("patch energy", True), ("gradient norm before clipping", False), ("learning rate", False),
    ]  # fmt: skip
    svg = curves[0]["svg"]
    assert re.findall(r">(\d of \d)</text>", svg) == ["1 of 1", "1 of 2", "2 of 2"]
    assert [path.count("M") for path in re.findall(r'class="points".*?d="(.*?)"', svg)] == [14, 13, 13]
    assert "each start has a line" in write_report(run_dir).read_text()


def test_very_many_starts_share_lines(run_dir):
    with_starts(run_dir, *(f"{i}_of_30" for i in range(1, 31)))
    lines = by_start("patch_energy", read_metrics(run_dir / "metrics.jsonl"))
    assert list(lines)[0] == "1 of 30 to 3 of 30" and len(lines) == 10
    steps, values = lines["1 of 30 to 3 of 30"]
    assert steps == [1, 2, 3, 31, 32, 33] and values == [5 / step for step in steps]


def test_metrics_of_earlier_versions_are_one_curve(run_dir):
    text = write_report(run_dir).read_text()
    assert text.count('class="raw"') == 2 and 'class="points"' not in text and "each start" not in text


def test_the_page_says_what_was_read_what_differs_and_what_to_type(run_dir):
    with_sheets(run_dir)
    sections = {"model": {"path": "emoji-lcm"}, "objective": {"l2": {"weight": 1}}, "train": {"max_train_steps": 40}}
    config = build_config({"stage": "e2ed2", "run": {"dir": run_dir}, **sections})
    (run_dir / "config.yaml").write_text(config.to_yaml())
    data = {"images": 1234, "captions": 5, "skipped": 2, "first_skipped": ["a.png: <torn>", "b.png: empty"]}
    (run_dir / "data_summary.json").write_text(json.dumps(data))
    text = write_report(run_dir).read_text()
    Page(text)
    assert "1,234 training images with 5 different captions" in text and ">2 skipped<" in text
    assert "a.png: &lt;torn&gt;\nb.png: empty" in text
    assert "Nothing was measured" in text and "evaluation.protocol=PROTOCOL" in text
    settings = config.model_dump(mode="json")
    assert differences(settings) == [
        ("model.path", "emoji-lcm", "null"),
        ("objective.l2.weight", "1.0", "0.0"),
        ("train.max_train_steps", "40", "1000"),
    ]
    assert "<code>emoji-lcm</code>" in text
    recipe = run_dir / "config.yaml"
    assert dict(commands(run_dir, settings, told(run_dir), "dog"))["go on"] == f"e2ed2 train {recipe}"
    (run_dir / "model").mkdir()
    (run_dir / "model" / "training.json").write_text('{"global_step": 40}')
    found = dict(commands(run_dir, settings, told(run_dir), "it's a dog"))
    assert found["train on"] == f"e2ed2 train {recipe} train.max_train_steps=80" and "go on" not in found
    assert shlex.split(found["draw"]) == ["e2ed2", "sample", str(run_dir / "model"), "it's a dog", "--num", "4"]
    settings["train"]["lr_schedule"] = "cosine"
    again = dict(commands(run_dir, settings, told(run_dir), None))["train on, in another folder"]
    assert f"model.path={run_dir / 'model'} run.dir={run_dir}-2" in again
    assert load_config(recipe, shlex.split(again)[3:]).run.dir == Path(f"{run_dir}-2"), "it can be typed"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1103, 1, None), "1,103 training images with one caption"),
        ((1, 1, None), "1 training image with one caption"),
        ((1103, 12, 0), "1,103 training images with 12 different captions"),
        ((1103, 1, 20), "1,103 training images, 20 of them captioned 'a dog', the others with one caption"),
        ((60, 50, 1), "60 training images, 1 of them captioned 'a dog', the others with 50 different captions"),
        ((20, 0, 20), "20 training images, all captioned 'a dog'"),
        ((1103, None, 20), "1,103 training images, 20 of them captioned 'a dog'"),
    ],
)
def test_what_was_read_says_how_many_images_have_the_default_caption(counts, words):
    names = ("images", "captions", "captioned_by_default")
    data = {name: count for name, count in zip(names, counts, strict=True) if count is not None}
    assert _read(data, {"data": {"source": "folder", "path": "x", "default_caption": "a dog"}}) == [words]


def test_several_default_captions_are_not_told_apart():
    data = {"images": 3, "captioned_by_default": 2}
    sources = [{"source": "folder", "path": name, "default_caption": f"a {name}"} for name in ("cat", "dog")]
    assert _read(data, {"data": {"sources": sources[:1]}}) == ["3 training images, 2 of them captioned 'a cat'"]
    for broken in ({"data": {"sources": sources}}, {}, {"data": 3}, {"data": {"default_caption": [1]}}):
        assert _read(data, broken) == ["3 training images, 2 of them captioned by data.default_caption"]
    assert _read({"images": "many"}, {}) == []


BROKEN = [{}, {"stage": "e2ed2"}, {"stage": "x", "run": {"dir": "y"}}, {"stage": 3, "run": []}]


@pytest.mark.parametrize("settings", BROKEN)
def test_a_broken_recipe_has_no_commands(tmp_path, settings):
    assert differences(settings) == [] and commands(tmp_path, settings, told(tmp_path), None) == []


def test_a_demo_page_compares_the_same_prompts_before_and_after(run_dir):
    after_demo(run_dir)
    page = Page(write_report(run_dir, compared(run_dir)).read_text())
    alts = [image["alt"] for image in page.all("img")]
    assert alts[:3] == [
        "Real image of red apple",
        "Sample before training, red apple, seed None",
        "Sample after training, red apple, seed None",
    ]
    assert len(page.all("table")) == 1
    assert len([row for row in page.all("tr") if row.get("class") == "own"]) == 1
    text = (run_dir / "report.html").read_text()
    assert text.count('class="badge better"') == 1 and text.count('class="badge no clear change"') == 1


def test_the_page_needs_nothing_from_elsewhere(run_dir):
    after_demo(run_dir)
    text = write_report(run_dir, compared(run_dir)).read_text()
    page = Page(text)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img")) and all(svg["aria-label"] for svg in page.all("svg"))
    assert not {tag for tag, _ in page.elements} & {"link", "iframe"} and page.all("script") == [{}], "its own script"
    assert not re.search(r"https?://|url\(|@import", text)


def test_captions_are_text_not_markup(run_dir):
    after_demo(run_dir, prompt='<script>alert("x")</script>')
    text = write_report(run_dir, compared(run_dir)).read_text()
    assert text.count("<script") == 1 and "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_writing_again_replaces_the_page(run_dir):
    first = write_report(run_dir).read_text()
    after_demo(run_dir)
    assert write_report(run_dir, compared(run_dir)).read_text() != first
    assert not list(run_dir.glob(".*.tmp"))


def test_ticks_are_round_and_inside():
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.013, 0.087, 4) == [0.02, 0.04, 0.06, 0.08]
    assert ticks(-1, 1, 4) == [-1, -0.5, 0, 0.5, 1]


def test_running_mean_keeps_lines_straight():
    line = [0.5 * i for i in range(100)]
    assert running_mean(line) == pytest.approx(line), "a centred window has no lag"
    assert running_mean([1.0, 3.0]) == [1.0, 3.0]
    middle = running_mean([0.0] * 50 + [11.0] + [0.0] * 50)
    assert middle[50] == pytest.approx(1.0), "a window of eleven, five either side"


def test_charts_place_larger_values_higher_and_further_right():
    points = re.findall(r'class="raw" points="([^"]*)"', line_chart([1, 2, 3], [1.0, 2.0, 3.0], "rising"))[0]
    xs, ys = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys, reverse=True)
    svg = interval_chart([("a", 1, 0.5, 1.5, False), ("b <", 2, 1.5, 2.5, True)], "two rows")
    first, second = (float(x) for x in re.findall(r'cx="([\d.]*)"', svg))
    assert first < second and "b &lt;" in svg


def test_figures_say_no_more_than_their_intervals():
    assert [figure(v) for v in (0, 0.0123, 1.2, 123.4, 12345)] == ["0.00", "0.0123", "1.20", "123", "12345"]
    estimate = {"value": 0.51234, "low": 0.4711, "high": 0.5511}
    assert (central(estimate), interval(estimate)) == ("0.51", "0.47 to 0.55")


def test_the_table_fits_a_page_and_marks_what_was_not_measured_here(capsys):
    print_comparison([evaluation("lcm", 4, 1.3), evaluation("teacher", 50, 1.0, measured="shipped")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "NFE", "images", "KD", "sharp"]
    assert lines[1].split() == ["lcm", "4", "512", "1.30", "0.90"]
    assert any(line.startswith("teacher *") for line in lines) and lines[-1].startswith("*")


def told_as(run_dir, doing, **fields):
    now = time.time()
    own = {"pid": os.getpid(), "host": socket.gethostname(), "began": now - 60, "now": now, "max_steps": 80, "step": 40}
    write_state(run_dir, RunState(**{"doing": doing, **own, **fields}))


def test_a_page_of_a_live_run_follows_it_and_says_how_long_it_takes(run_dir):
    told_as(run_dir, "training", seconds_left=600.0)
    with locked(run_dir):
        text = write_report(run_dir).read_text()
    page = Page(text)
    assert [chip for chip in page.all("span") if chip.get("class") == "chip "] and ">training<" in text
    assert page.all("progress")[0]["value"] == "40" and "about 10 min left" in text and "40 of 80 updates" in text
    assert page.all("body")[0]["data-written"].isdecimal() and 'http-equiv="refresh"' in text
    text = write_report(run_dir).read_text()  # nobody holds the folder any more
    assert ">interrupted<" in text and "ended while training, without a word" in text and "http-equiv" not in text
    assert "data-written" not in text and ">go on<" in text


@pytest.mark.parametrize(("doing", "tone"), [("finished", "good"), ("failed", "bad"), ("interrupted", "care")])
def test_a_page_says_how_a_run_ended_and_why(run_dir, doing, tone):
    told_as(run_dir, doing, why="memory is <full>", command=["e2ed2", "finetune", "m", "my images"])
    text = write_report(run_dir).read_text()
    Page(text)
    assert f'class="chip {tone}">{doing}<' in text and "memory is &lt;full&gt;" in text
    (run_dir / "config.yaml").write_text(build_config({"stage": "e2ed2", "run": {"dir": run_dir}}).to_yaml())
    assert "e2ed2 finetune m &#39;my images&#39;" in write_report(run_dir).read_text()


def test_the_slider_has_every_preview_and_fits_what_a_page_may_hold(run_dir, monkeypatch):
    with_sheets(run_dir)
    page = Page(write_report(run_dir).read_text())
    assert [each["data-steps"] for each in page.all("div") if "data-steps" in each] == ["0 20 40"]
    pictures = [each["data-over"].split(" ") for each in page.all("img") if "data-over" in each]
    assert [len(sources) for sources in pictures] == [3] * 4 and pictures[0][2] == page.all("img")[2]["src"]
    monkeypatch.setattr("e2ed2.reports.previews.MOST_BYTES", 1)
    assert previews(run_dir)["over"] == [0, 40], "the first and the last always"
    elsewhere = previews(run_dir, lambda step, row, column: f"/{step}/{row}/{column}")
    assert elsewhere["prompts"][1]["over"] == ["/0/1/sample", "/20/1/sample", "/40/1/sample"]


def test_sizes_of_the_data_are_told():
    data = {"images": 3, "skipped": 0, "sizes": [[64, 48], [64, 64], [1080, 1920]], "enlarged": 2}
    assert _read(data, {})[2:] == [
        "from 48 x 64 to 1,920 x 1,080 px, half of them up to 64 x 64",
        "2 smaller than what is trained, and enlarged",
    ]
    assert _read({"images": 1, "sizes": [[9, 8]] * 3}, {})[1:] == ["all 8 x 9 px"]
    assert _read({"images": 1, "sizes": [3]}, {})[1:] == []


def test_long_curves_are_thinned_and_keep_their_peaks():
    ys = [math.sin(i / 50) for i in range(10_000)]
    ys[4321] = 9.0
    points = thinned([float(i) for i in range(10_000)], ys)
    assert len(points) <= MAX_POINTS and (4321.0, 9.0) in points and points == sorted(points)
    assert thinned([1.0, 2.0], [3.0, 4.0]) == [(1.0, 3.0), (2.0, 4.0)]
