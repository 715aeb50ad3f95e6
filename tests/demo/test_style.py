"""`e2ed2 demo --style`: both models are trained from one start, measured alike, and shown side by side."""

import json

import pytest
from typer.testing import CliRunner

from e2ed2.commands.app import app
from e2ed2.demo import style
from e2ed2.evaluation.results import read_results
from e2ed2.system.errors import UserError

NUM_IMAGES = 20


@pytest.mark.slow
def test_the_style_demo_shows_start_ordinary_and_finetuned(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "ORDINARY_PER_UPDATE", 2)
    out, said = tmp_path / "style", []
    fields = ["train.max_train_steps=1", "train.micro_batch_size=4", "train.gradient_accumulation_steps=1"]
    rows = style.run_style(out, fields, num_images=NUM_IMAGES, say=said.append)
    found = {(row["model"], row["protocol"], row["nfe"]): row["measured"] for row in rows}
    here = {(model, *where): "here" for model in ("ordinary", "finetuned")
            for where in (("style", 4), ("style", 1), ("emoji-heldout", 4))}  # fmt: skip
    shipped = dict.fromkeys(
        [("start", "style", 4), ("start", "style", 1), ("start", "emoji-heldout", 4), ("copies", "style", 0)], "shipped"
    )
    assert found == here | shipped
    assert [row["metrics"] for row in read_results(out / "metrics.json")] == [row["metrics"] for row in rows]
    page = (out / "report.html").read_text()
    assert style.TITLE in page and "held out" in page and page.count("<img") >= 12 * 7
    ordinary = json.loads((out / "ordinary" / "model" / "training.json").read_text())
    assert ordinary["global_step"] == 2 and any(line.startswith("3/4") for line in said)


def test_the_style_demo_writes_to_out_alone(tmp_path):
    with pytest.raises(UserError, match="--out"):
        style.run_style(tmp_path, ["run.dir=elsewhere"])


def test_shipped_rows_of_the_style_are_those_of_the_start():
    rows = {path.stem: json.loads(path.read_text()) for path in style.SHIPPED.glob("*.json")}
    assert {row["model"] for row in rows.values()} == {"start", "copies"}
    assert rows["copies"]["metrics"]["kernel_distance"]["high"] < rows["start-4"]["metrics"]["kernel_distance"]["low"]


def test_what_the_style_demo_would_not_read_is_refused():
    result = CliRunner().invoke(app, ["demo", "--style", "--full"])
    assert result.exit_code == 2 and "--full" in result.output
