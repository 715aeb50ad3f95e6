"""A folder from beginning to end: every row's fate, a run cut off anywhere, folders of others."""

import json
import signal
import subprocess
import sys
import tarfile
import warnings
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from e2ed2.curation import engine, passes
from e2ed2.curation import run as running
from e2ed2.curation.engine import run_units
from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import CheckConfig, EngineConfig
from e2ed2.curation.run import curate
from e2ed2.curation.stages.check import check, decoders
from e2ed2.curation.work import Work
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.shards import tar_shards
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent
from tests.curation.conftest import contents, encoded, picture, pipeline_of, run


def add(folder, name, content, caption="something"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if caption:
        path.with_suffix(".txt").write_text(caption)


def test_every_row_of_a_folder_is_kept_or_says_why_not(photos, tmp_path):
    large = picture(0, 200)
    whole = encoded(large)
    moving = encoded(picture(50), "GIF", save_all=True, append_images=[picture(51)])
    add(photos, "large.jpg", whole)
    add(photos, "sub/same.jpg", whole)
    add(photos, "mirrored.png", encoded(ImageOps.mirror(large).resize((90, 90)), "PNG"))
    add(photos, "cut.jpg", encoded(picture(60))[:-300])
    add(photos, "page.jpg", b"<!doctype html><title>gone</title>")
    add(photos, "empty.jpg", b"")
    add(photos, "moving.gif", moving)
    add(photos, "tiny.png", encoded(picture(61, 40), "PNG"))
    add(photos, "huge.png", encoded(Image.new("1", (9000, 9000)), "PNG"))
    add(photos, "silent.jpg", encoded(picture(62)), caption=None)
    pipeline = pipeline_of(tmp_path / "out", f"input.path={photos}", "check.max_megapixels=50")
    rows = run(pipeline)
    best, copy = sorted(["large.jpg", "sub/same.jpg"], key=lambda name: rows[name]["stage"] is not None)
    near = rows["mirrored.png"]["reason"].removeprefix("nearly the same as ")
    assert near in ("000.jpg", best)  # not beside its copies, which are larger
    assert {name: (row["stage"], row["reason"]) for name, row in rows.items() if not row["kept"]} == {
        "000.jpg": ("deduplicate", f"nearly the same as {best}"),
        "mirrored.png": ("deduplicate", f"nearly the same as {near}"),
        copy: ("deduplicate", f"the same bytes as {best}"),
        "cut.jpg": ("check", rows["cut.jpg"]["reason"]),
        "page.jpg": ("check", "not an image"),
        "empty.jpg": ("check", "empty file"),
        "moving.gif": ("check", "animated"),
        "tiny.png": ("check", "a side below 64 pixels"),
        "huge.png": ("check", "more than 50 megapixels"),
        "silent.jpg": ("read", "no caption"),
    }
    assert "truncated" in rows["cut.jpg"]["reason"]
    kept = {name: row for name, row in rows.items() if row["kept"]}
    assert {*kept} == {best, *(f"{n:03d}.jpg" for n in range(1, 10))}
    read = [item for shard in tar_shards(str(tmp_path / "out" / "shards"), Columns()) for item in shard(0)]
    assert [item.captions[0] for item in read] == [row["caption"] for row in kept.values()]
    assert whole in [item.image for item in read]


def test_pillow_does_not_warn_of_images_within_our_own_limit(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 96 - 1)
    item = Item(0, "000", "here", str(photos / "000.jpg"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with decoders() as pool:
            check([item], CheckConfig(), pool)
    assert item.kept and item.perceptual_hash is not None


def test_a_shard_tells_of_each_item_where_it_came_from(photos, tmp_path):
    run(pipeline_of(tmp_path / "out", f"input.path={photos}", "output.items_per_shard=4"))
    shards = sorted((tmp_path / "out" / "shards").iterdir())
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(shards[1]) as tar:
        assert tar.getnames()[:3] == ["000000004.jpg", "000000004.json", "000000004.txt"]
        about = json.load(tar.extractfile("000000004.json"))
    assert about["id"] == "004.jpg" and about["source"] == str(photos / "004.jpg") and about["width"] == 96


def test_cut_off_before_or_in_any_step_the_next_run_ends_as_an_uninterrupted_one(photos, tmp_path, monkeypatch):
    add(photos, "000b.jpg", (photos / "000.jpg").read_bytes())
    small = (f"input.path={photos}", "engine.part_rows=3", "output.items_per_shard=2", "select.count=7")
    whole = pipeline_of(tmp_path / "whole", *small)
    told = []
    curate(whole, lambda *step: told.append(step))
    cut = pipeline_of(tmp_path / "cut", *small)
    steps = [*dict.fromkeys(step for step, _, _ in told)]
    assert steps == [
        "read", "check", "deduplicate keys", "deduplicate pairs", "deduplicate", "select", "write", "manifest",
    ]  # fmt: skip
    for last in steps:  # each run gets one step further

        def watch(step, done, total, last=last):
            if step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            curate(cut, watch)
    curate(cut, silent)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert not (tmp_path / "cut" / "work").exists()


@pytest.mark.parametrize(
    ("place", "name"),
    [(passes, "scatter"), (passes.copies, "losses"), (passes, "write_rows"), (passes, "_write_seen"),
     (running, "write_manifest")],
)  # fmt: skip
def test_cut_off_within_what_looks_at_all_rows(place, name, photos, tmp_path, monkeypatch):
    add(photos, "000b.jpg", (photos / "000.jpg").read_bytes())
    asked = (f"input.path={photos}", "engine.part_rows=2", "select.count=7")
    for size in ("ROWS_A_BLOCK", "ROWS_A_GROUP"):
        monkeypatch.setattr(passes, size, 4)
    run(pipeline_of(tmp_path / "whole", *asked))
    cut = pipeline_of(tmp_path / "cut", *asked)
    real, calls = getattr(place, name), []

    def stop(*args):
        calls.append(args)
        if len(calls) == (1 if name in ("_write_seen", "write_manifest", "losses") else 2):
            raise UserError("the disk is full")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, stop)
        with pytest.raises(UserError, match="the disk is full"):
            curate(cut, silent)
    curate(cut, silent)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_same_seed_gives_the_same_whatever_the_parts(photos, tmp_path):
    add(photos, "000b.jpg", (photos / "000.jpg").read_bytes())
    asked = (f"input.path={photos}", "select.count=5")
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    run(pipeline_of(one, *asked))
    run(pipeline_of(other, *asked, "engine.part_rows=2"))
    assert contents(one) == contents(other) | {"manifest.parquet": contents(one)["manifest.parquet"]}
    assert pq.read_table(one / "manifest.parquet") == pq.read_table(other / "manifest.parquet")
    rows = run(pipeline_of(third, *asked, "seed=1"))
    of_seed_0 = {row["id"] for row in pq.read_table(one / "manifest.parquet").to_pylist() if row["kept"]}
    assert len(of_seed_0) == 5 and of_seed_0 != {name for name, row in rows.items() if row["kept"]}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["aesthetics.min=5"], "aesthetics: unknown field; allowed here: seed, input, filter, download, check, "),
        (["check.side=5"], "check.side: unknown field; allowed here: min_side, max_aspect, max_megapixels"),
        (["filter=[{column: width, min: 5}]"], "filter.0.column: no column 'width' in .*; it has none: name one"),
        (["check.min_side=500"], "no row is left after the stage check: 10 x a side below 500 pixels"),
        (["deduplicate.max_embedding_distance=3"], "deduplicate.max_embedding_distance: given, but score.model"),
        (["input.path=nowhere"], "data.path 'nowhere' is not a folder"),
        (["output.path=null"], "output.path: None is not allowed"),
    ],
)
def test_what_cannot_be_is_one_line(overrides, said, photos, tmp_path):
    with pytest.raises(UserError, match=f"^{said}"):
        curate(pipeline_of(tmp_path / "out", f"input.path={photos}", *overrides), silent)


def test_a_folder_of_another_pipeline_or_of_other_files_is_refused(photos, tmp_path):
    asked = (f"input.path={photos}",)
    run(pipeline_of(tmp_path / "out", *asked))
    curate(pipeline_of(tmp_path / "out", *asked, "engine.workers=1"), silent)  # done, and the same
    with pytest.raises(UserError, match="done, and its report.html is of other report.evaluation_sets"):
        curate(pipeline_of(tmp_path / "out", *asked, f"report.evaluation_sets={{own: {photos}}}"), silent)
    with pytest.raises(UserError, match="another pipeline's, whose check differs"):
        curate(pipeline_of(tmp_path / "out", *asked, "check.min_side=65"), silent)
    with pytest.raises(UserError, match="holds files that are no pipeline's"):
        curate(pipeline_of(photos, *asked), silent)


def test_an_input_that_changed_before_the_resume_is_refused(tmp_path):
    work = Work(tmp_path)
    work.keep_fragments(["a.tar", "c.tar"])
    work.keep_fragments(["a.tar", "c.tar"])
    with pytest.raises(UserError, match="another input, whose part 1 was c.tar and is b.tar now; put the input back"):
        work.keep_fragments(["a.tar", "b.tar", "c.tar"])
    with pytest.raises(UserError, match="part 1 was c.tar and is none now"):
        work.keep_fragments(["a.tar"])


@pytest.mark.parametrize("last", ["read", "write", None])
def test_a_folder_that_has_other_files_or_captions_than_when_its_work_began_is_refused(last, photos, tmp_path):
    asked = pipeline_of(tmp_path / "out", f"input.path={photos}")

    def watch(step, done, total):
        if step == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if last else nullcontext():
        curate(asked, watch)
    add(photos, "later.jpg", encoded(picture(70)))
    with pytest.raises(UserError, match=r"whose part 0 was .*photos \(10 images, .* and is .*photos \(11 images, "):
        curate(asked, silent)
    (photos / "later.jpg").unlink()
    (photos / "later.txt").unlink()
    before = (photos / "003.txt").read_text()
    (photos / "003.txt").write_text("another")
    with pytest.raises(UserError, match="begun with another input"):
        curate(asked, silent)
    (photos / "003.txt").write_text(before)
    assert curate(asked, silent).kept == 10


def test_units_whose_files_are_not_seen_here_end(tmp_path):
    with pytest.raises(UserError, match="^output.path: not seen by all machines"):
        run_units("check", ["a", "b"], lambda unit: False, lambda: lambda unit: None, EngineConfig(workers=1), silent)


def test_what_processes_do_is_what_threads_do(photos, tmp_path, monkeypatch):
    add(photos, "000b.jpg", (photos / "000.jpg").read_bytes())
    small = (f"input.path={photos}", "engine.part_rows=2", "output.items_per_shard=2", "select.count=7")
    curate(pipeline_of(tmp_path / "threads", *small), silent)
    monkeypatch.setattr(engine, "START", 0.0)  # the first units here, the others in processes
    monkeypatch.setattr(engine, "CORES", 2)
    counts, plan = [], engine._plan
    monkeypatch.setattr(engine, "_plan", lambda *asked: counts.append(asked[-1]) or plan(*asked))
    curate(pipeline_of(tmp_path / "processes", *small), silent)
    assert {1, 2} <= set(counts)
    one, other = (tmp_path / name for name in ("threads", "processes"))
    assert (one / "manifest.parquet").read_bytes() == (other / "manifest.parquet").read_bytes()
    for shard in sorted((one / "shards").iterdir()):
        assert shard.read_bytes() == (other / "shards" / shard.name).read_bytes()


def test_a_process_of_the_engine_does_without_torch():
    code = "import e2ed2.curation.run, e2ed2.curation.stages.units, sys; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_ctrl_c_while_threads_are_at_work_ends_in_an_interruption(tmp_path):
    code = f"""
import os, signal, threading, time
from pathlib import Path
from e2ed2.curation.engine import EngineConfig, run_units
from e2ed2.system.watch import silent

def do(unit):
    time.sleep(1)
    Path({str(tmp_path)!r}, unit).touch()

threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
run_units("check", ["a", "b"], lambda unit: Path({str(tmp_path)!r}, unit).exists(), lambda: do, EngineConfig(), silent)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode in (1, -signal.SIGINT), ran.stderr  # of Python; -SIGABRT where the interpreter ended first
    assert ran.stderr.rstrip().endswith("KeyboardInterrupt")
    assert {path.name for path in tmp_path.iterdir()} >= {"a"}  # what had begun has ended
