"""What the pages show, of runs in every state, and how seldom they are rendered."""

import json
import os
import time

import pytest

from e2ed2.system.errors import UserError
from e2ed2.system.files import locked
from e2ed2.training.journal.state import read_state, write_state
from e2ed2.web.app.pages import NEXT, VERSION, Parts
from e2ed2.web.app.serve import serve
from e2ed2.web.beside import different_fields
from e2ed2.web.runs import Runs
from tests.web.conftest import write_run


def test_the_list_has_every_run_its_state_and_its_best_figure(client, runs):
    best = {"metric": "kernel_distance", "value": 0.1234, "low": 0.11, "high": 0.14, "step": 20}
    live = write_run(runs / "live", "training", steps=20, seconds_left=600.0, best=best)
    write_run(runs / "failed", "failed", why="memory is full")
    (live / "model").mkdir()
    with locked(live):
        text = client.get("/").text
    names = [text.index(f'href="/run/{name}"') for name in ("live", "failed", "suite/row/seed-0")]
    assert names[0] < min(names[1:]), "what is at work comes first"
    assert ">training<" in text and "about 10 min left" in text and "0.123<small>kernel distance, step 20" in text
    assert "memory is full" in text and "20 of 40" in text and "emoji-lcm on my_images" in text


def test_a_finetunes_best_figure_is_what_was_measured_of_its_result(client, runs):
    value = {"value": 0.2, "low": 0.1, "high": 0.3}
    about = {"protocol": "p", "protocol_sha256": "a" * 64, "nfe": 4, "num_images": 9, "reference": "r"}
    rows = [{**about, "model": name, "metrics": {"kernel_distance": value}} for name in ("start", "finetuned")]
    (runs / "one" / "metrics.json").write_text(json.dumps(rows))
    assert "kernel distance" in client.get("/list").text
    text = client.get("/run/one").text
    assert "Measured: p" in text and ">finetuned<" in text
    (runs / "one" / "metrics.json").write_text("{torn")
    assert client.get("/list").status_code == client.get("/run/one").status_code == 200, (
        "damaged, and the rest is shown"
    )


def test_a_folder_without_runs_and_none_at_all(client, runs, tmp_path):
    for path in (runs / "one", runs / "suite"):
        path.rename(tmp_path / path.name)
    assert "No runs here yet" in client.get("/").text
    runs.rename(tmp_path / "gone")
    assert client.get("/").status_code == 200 and client.get("/run/one").status_code == 404
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=r"RUNS '.*file': a file; name the folder"):
        serve(file, port=0, say=print)


def test_a_port_in_use_is_one_line(runs, tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("E2ED2_CONFIG", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: cannot be opened on 127.0.0.1 \(Address already in use\)"):
            serve(runs, port=taken.getsockname()[1], say=print)


def test_one_run_can_be_watched(runs):
    assert [*Runs(runs / "one").listing().runs] == ["one"] and Runs(runs / "one").path("one") == runs / "one"


@pytest.mark.parametrize(
    ("file", "text"),
    [("state.json", "{"), ("state.json", '{"doing": "flying", "of": "a later version"}'), ("config.yaml", ": ["),
     ("config.yaml", "stage: later\nrun: {dir: x}\n"), ("metrics.jsonl", '{"global_step": 1'),
     ("metrics.jsonl", "[]\n"), ("data_summary.json", "["), ("environment.json", "3"), ("metrics.json", "[{}]"),
     ("samples/step-000040.png", "torn"), ("evaluation/step-000020/evaluation.json", "{}")],
)  # fmt: skip
def test_a_run_of_another_version_or_half_written_is_shown_as_far_as_it_goes(client, runs, file, text):
    path = runs / "one" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for address in ("/", "/run/one", "/state/one", "/body/one"):
        assert client.get(address).status_code == 200, address
    assert client.get("/beside?run=one&run=suite/row/seed-0").status_code == 200
    assert "suite/row/seed-0" in client.get("/list").text


def test_a_run_without_a_state_of_an_earlier_version(client, runs):
    (runs / "one" / "state.json").unlink()
    assert "interrupted" in client.get("/state/one").text and "40 updates" in client.get("/run/one").text
    with locked(runs / "one"):
        assert ">training<" in client.get("/state/one").text
    (runs / "one" / "model").mkdir()
    (runs / "one" / "model" / "training.json").write_text('{"global_step": 40}')
    assert "finished" in client.get("/state/one").text


def test_a_killed_run_is_seen_at_once(client, runs):
    run = write_run(runs / "live", "training", steps=20)
    with locked(run):
        assert ">training<" in client.get("/state/live").text
    text = client.get("/state/live").text
    assert ">interrupted<" in text and "ended while training" in text and ">Go on<" in text
    assert float(client.get("/state/live").headers[NEXT]) <= 5 and float(client.get("/list").headers[NEXT]) <= 5


def test_a_part_is_sent_again_only_when_it_has_changed(client, runs):
    for address in ("/list", "/state/one", "/body/one"):
        first = client.get(address)
        assert client.get(address, headers={VERSION: first.headers[VERSION]}).status_code == 204, address
    with (runs / "one" / "metrics.jsonl").open("a") as file:
        row = json.loads((runs / "one" / "metrics.jsonl").read_text().splitlines()[-1])
        file.write(json.dumps(row | {"global_step": 41, "l2": 3.0}) + "\n")
    again = client.get("/body/one", headers={VERSION: first.headers[VERSION]})
    assert again.status_code == 200 and "over 41 logged steps" in again.text


def test_pages_take_a_hundredth_of_the_time_however_many_are_open(monkeypatch):
    now, rendered = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def render() -> str:
        rendered.append(now[0])
        now[0] += 0.5
        return f"version {len(rendered)}"

    parts = Parts()
    for version in range(2000):  # a page that asks ten times a second, of a run that always changes
        part = parts.get("body", str(version), render)
        now[0] += 0.1
    assert len(rendered) == 4 and 0.5 * len(rendered) / now[0] <= 0.0101 and 2 <= part.next <= 50
    assert parts.get("list", "a", render, most=5.0).next == 5.0, "a list may not be older"


def test_only_new_rows_are_read_and_a_resumed_run_begins_anew(runs):
    found, path = Runs(runs), runs / "one" / "metrics.jsonl"
    first = found.rows("one")
    assert len(first) == 40
    lines = path.read_text().splitlines(keepends=True)
    with path.open("a") as file:
        file.write(lines[-1] + lines[-1][:20])
    assert len(found.rows("one")) == 41, "half a row is none"
    with path.open("a") as file:
        file.write(lines[-1][20:])
    assert len(found.rows("one")) == 42
    new = path.with_name("new")
    new.write_text("".join(lines[:30]))
    os.replace(new, path)
    assert len(found.rows("one")) == 30


def test_runs_side_by_side(client):
    text = client.get("/beside?run=one&run=suite/row/seed-0").text
    assert text.count('class="line"') >= 4 and "train.lr" in text and "5e-05" in text and "run.dir" not in text
    assert 'data-over="/picture/0/0/1/one /picture/20/0/1/one /picture/40/0/1/one"' in text
    assert (
        "/picture/0/0/1/suite/row/seed-0" in text and client.get("/picture/0/0/1/suite/row/seed-0").status_code == 200
    )
    assert client.get("/beside?run=one").status_code == 422 and client.get("/beside").status_code == 422


def test_fields_that_differ_are_told_and_those_that_are_missing():
    recipes = {
        "a": {"run": {"dir": "x"}, "train": {"lr": 1, "seed": 0}},
        "b": {"run": {"dir": "y"}, "train": {"lr": 2}},
    }
    assert different_fields(recipes) == [("train.lr", ["1", "2"]), ("train.seed", ["0", "–"])]
    assert different_fields({"a": {}, "b": {}}) == []


def test_evaluations_and_comparisons_beside_runs(client, runs):
    folder = runs / "after"
    folder.mkdir()
    value = {"value": 0.2, "low": 0.1, "high": 0.3}
    about = {"protocol": "emoji", "protocol_sha256": "a" * 64, "nfe": 4, "num_images": 9, "reference": "real ones"}
    row = {**about, "model": "m", "metrics": {"kernel_distance": value}, "command": "e2ed2 evaluate m"}
    (folder / "evaluation.json").write_text(json.dumps(row))
    (runs / "table").mkdir()
    (runs / "table" / "compare.html").write_text("<h1>compared</h1>")
    text = client.get("/list").text
    assert 'href="/measured/after"' in text and 'href="/compared/table"' in text
    assert "real ones" in client.get("/measured/after").text and "compared" in client.get("/compared/table").text
    (folder / "evaluation.json").write_text("{}")
    assert client.get("/measured/after").status_code == 422


def test_what_has_ended_is_read_again_only_when_it_has_changed(client, runs, monkeypatch):
    from e2ed2.web import runs as module

    live, read, plain = write_run(runs / "live", "training", steps=20), [], module.told
    monkeypatch.setattr(module, "told", lambda path: read.append(path.name) or plain(path))
    with locked(live):
        client.get("/list")
        client.get("/list")
        assert read == ["live", "live"], "the others were read when the page was opened"
        write_state(runs / "one", read_state(runs / "one").model_copy(update={"doing": "failed", "why": "changed"}))
        assert "changed</small>" in client.get("/list").text and read.count("one") == 1
