"""Models side by side on a run's page: what changed, charts of intervals, pictures in rows."""

import pytest
import torch

from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.reports.comparisons import changes_of, first_of_each, sheet_of, table_of, verdict
from e2ed2.sampling.folder import save_images


def interval(value: float, half: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def row(model: str, nfe: int, **values: float) -> dict[str, object]:
    return {"model": model, "nfe": nfe, "metrics": {name: interval(value) for name, value in values.items()}}


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        ("kernel_distance", 2.0, 1.0, "better"),
        ("kernel_distance", 1.0, 2.0, "worse"),
        ("kernel_distance", 1.0, 1.15, "no clear change"),
        ("recall", 0.2, 0.6, "better"),
        ("recall", 0.6, 0.2, "worse"),
        ("sharpness", 0.5, 0.9, "better"),
        ("sharpness", 0.9, 1.5, "worse"),
        ("sharpness", 1.5, 0.9, "better"),
        ("sharpness", 0.5, 1.5, "changed"),  # as far from 1
        ("spread", 0.1, 0.4, "changed"),
    ],
)
def test_a_change_is_called_what_it_is_only_where_intervals_part(name, before, after, expected):
    assert verdict(name, interval(before), interval(after)) == expected
    rows = [{"metrics": {name: interval(value), "alignment": interval(1)}} for value in (before, after)]
    [change] = changes_of([name], *rows, "on new prompts")
    assert (change["metric"], change["verdict"]) == (metric_of(name), expected)
    assert (change["where"], changes_of([name], *rows)[0]["where"]) == ("on new prompts", "")
    assert (change["before"], change["after"]) == (interval(before), interval(after))


def test_a_table_has_a_chart_for_each_metric_that_a_row_has():
    rows = [row("start", 4, kernel_distance=2), row("finetuned", 4, kernel_distance=1, recall=0.5)]
    table = table_of("On your captions", "", rows, "finetuned", [row("real", 0, kernel_distance=0.5, spread=1)])
    assert [name for name, _ in table["metrics"]] == ["kernel_distance", "recall", "spread"]
    assert [chart["metric"] for chart in table["dots"]] == [metric_of("kernel_distance"), metric_of("recall")]
    distance = table["dots"][0]["svg"]
    assert "start 4 NFE: 2.00; finetuned 4 NFE: 1.00" in distance and "start" not in table["dots"][1]["svg"]


def test_a_sheet_shows_captions_that_all_columns_have_evenly():
    shades = {f"c{i}": torch.full((3, 4, 4), i, dtype=torch.uint8) for i in range(9)}
    start = {caption: image for caption, image in shades.items() if caption != "c0"}
    sheet = sheet_of("title", "text", {"real": shades, "start": start}, 4)
    assert [line["caption"] for line in sheet["rows"]] == ["c1", "c3", "c5", "c7"]
    assert sheet["heads"] == ["real", "start"] and all(len(set(line["pictures"])) == 1 for line in sheet["rows"])
    assert len({line["pictures"][0] for line in sheet["rows"]}) == 4
    assert sheet_of("title", "text", {"real": shades, "start": {}}, 4)["rows"] == []


def test_of_each_caption_the_first_sample_is_shown(tmp_path):
    images = torch.stack([torch.full((3, 8, 8), i, dtype=torch.uint8) for i in range(4)])
    save_images(tmp_path / "samples", "data", images, ["cat", "owl", "cat", "fox"])
    found = first_of_each(tmp_path / "samples")
    assert {caption: int(image[0, 0, 0]) for caption, image in found.items()} == {"cat": 0, "owl": 1, "fox": 3}
    assert first_of_each(tmp_path / "nothing") == {}
