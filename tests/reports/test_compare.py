"""Tables of evaluations: one for each protocol, paired differences, published figures apart; the README's too."""

import json
from pathlib import Path

import pytest
import torch

from e2ed2.evaluation.metrics import distribution as dist
from e2ed2.evaluation.metrics import neighbourhoods as near
from e2ed2.evaluation.metrics.intervals import mean_estimate, paired_difference
from e2ed2.evaluation.results import keep_result, read_jackknife
from e2ed2.models.folders.bundled import WEIGHTS
from e2ed2.reports.compare import Comparison, Row, compare, difference_cells, difference_titles, markdown
from e2ed2.reports.compare_page import write_comparison
from e2ed2.system.errors import UserError
from tests.evaluation.tiny import draw_images

ROOT = Path(__file__).parent.parent.parent


def evaluation(folder: Path, model: str, shift: float, sha256: str = "a" * 64, **fields) -> Path:
    """A kept evaluation whose scores share the hardness of 30 captions, one sixth as large in what is their own."""
    hardness = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = torch.randn(30, generator=torch.Generator().manual_seed(len(model)), dtype=torch.float64) / 6
    metrics = {"clip_score": mean_estimate(30 + shift + hardness + own)}
    result = {
        "model": model, "protocol": "coco30k", "protocol_sha256": sha256, "nfe": 4, "num_images": 30, "seed": 0,
        "reference": "40,504 real images", "images_per_second": 2.0, "num_parameters": 610_000_000,
        "metrics": {name: e.to_json() for name, e in metrics.items()}, **fields,
    }  # fmt: skip
    keep_result(result, metrics, folder)
    return folder


def test_different_protocols_never_share_a_table(tmp_path):
    paths = [evaluation(tmp_path / "a", "one", 0), evaluation(tmp_path / "b", "two", 0, "b" * 64)]
    tables = compare([*paths, evaluation(tmp_path / "c", "three", 0)])
    assert [[row.label for row in table.rows] for table in tables] == [["one", "three"], ["two"]]


def test_published_figures_stand_apart_with_their_source(tmp_path):
    [table] = compare([evaluation(tmp_path / "a", "pixart-delta", 0), evaluation(tmp_path / "b", "runs/x/model", 0)])
    lines = [line for line in markdown([table]).splitlines() if line.startswith("|")]
    assert lines[0] == (
        "| model | size | NFE | images | CLIP score | images/s | FID, published | CLIP score, published | source |"
    )
    assert lines[2].startswith("| pixart-delta | 0.61B | 4 | 30 | 29.7 [")
    assert lines[2].endswith("| 2.00 | 28.49 | 30.83 | E2ED2, Table 1 |")
    assert lines[3].startswith("| x/model |") and lines[3].endswith("| - | - | - |")
    assert "| E2ED2 | 0.6B | 4 | - | - | - | 25.27 | 32.76 | E2ED2, Table 1 |" in lines
    assert sum("28.49" in line for line in lines) == 1


def test_paired_differences_see_what_intervals_apart_do_not(tmp_path):
    paths = [evaluation(tmp_path / "a", "one", 0), evaluation(tmp_path / "bb", "other", 0.3)]
    [table] = compare(paths, baseline=paths[0])
    apart = [row.result["metrics"]["clip_score"] for row in table.rows]
    assert apart[0]["high"] > apart[1]["low"], "the intervals overlap"
    [(row, found)] = table.differences
    assert row.label == "other" and 0 < found["clip_score"].low < 0.3 < found["clip_score"].high + 0.2
    assert difference_cells(table)[0][2].endswith("*")
    assert "Less one at 4 NFE: paired" in markdown([table])


def test_of_two_equal_models_one_in_twenty_is_starred():
    """Two models that draw from one distribution, beside the data's: 2 samples of 50 captions each, 120 real images."""
    trials, num_captions = 120, 50
    metrics = [dist.kernel_distance, dist.frechet_distance, near.precision, near.density, near.recall, near.coverage]
    captions = [i // 2 for i in range(2 * num_captions)]
    starred = dict.fromkeys([metric.__name__ for metric in metrics], 0)
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        real = torch.randn(120, 8, generator=generator)
        shared = 0.5 + torch.randn(num_captions, 8, generator=generator).repeat_interleave(2, 0) / 2**0.5
        pair = [shared + torch.randn(2 * num_captions, 8, generator=generator) / 2**0.5 for _ in range(2)]
        found = {m.__name__: paired_difference(*(m(x, real, captions) for x in pair)) for m in metrics}
        row = Row(Path("x"), {"model": "x", "nfe": 4}, {})
        table = Comparison("p", "0", "r", list(found), [row], [], row, [(row, found)], [])
        for name, cell in zip(found, difference_cells(table)[0][2:], strict=True):
            starred[name] += cell.endswith("*")
    assert all(count / trials <= 0.1 for count in starred.values()), starred
    assert sum(starred.values()) > 6
    assert {"recall", "precision"} <= set(difference_titles(table))


def test_rows_that_cannot_be_paired_say_why(tmp_path):
    paths = [evaluation(tmp_path / "a", "one", 0), evaluation(tmp_path / "b", "two", 0, seed=1)]
    bare = evaluation(tmp_path / "c", "three", 0)
    (bare / "jackknife.safetensors").unlink()
    [table] = compare([*paths, bare], baseline=paths[0])
    assert not table.differences
    assert "no differences of two at 4 NFE: seeds 1 and 0 differ" in table.notes
    assert any("three" in note and "keeps no jackknife of its own" in note for note in table.notes)


def test_a_jackknife_of_another_result_is_left_aside(tmp_path):
    one, two = evaluation(tmp_path / "a", "one", 0), evaluation(tmp_path / "b", "other", 0.3)
    assert set(read_jackknife(one)) == set(read_jackknife(one / "evaluation.json")) == {"clip_score"}
    (one / "jackknife.safetensors").write_bytes((two / "jackknife.safetensors").read_bytes())
    assert read_jackknife(one) == {}
    [table] = compare([one, two], baseline=two)
    assert not table.differences and "keeps no jackknife of its own" in table.notes[0]


def test_mistakes_are_named(tmp_path):
    path = evaluation(tmp_path / "a", "one", 0)
    with pytest.raises(UserError, match="none: No such file or directory; `e2ed2 evaluate MODEL --out DIR` makes one"):
        compare([tmp_path / "none"])
    (tmp_path / "other.json").write_text('{"model": "x"}')
    with pytest.raises(UserError, match="other.json: protocol is missing; `e2ed2 evaluate MODEL --out DIR` makes one"):
        compare([tmp_path / "other.json"])
    with pytest.raises(UserError, match="--baseline .*b: is not among the evaluations"):
        compare([path], baseline=tmp_path / "b")
    with pytest.raises(UserError, match="--metric fidd: none of the evaluations has it; there are clip_score"):
        compare([path], metrics=["fidd"])


def test_the_page_is_one_file_with_table_and_grid(tmp_path):
    paths = []
    for name in ("one", "two"):
        folder = evaluation(tmp_path / name, name, 0)
        draw_images(folder / "images", 4, side=64, seed=len(paths))
        rows = [{"file": f"images/{i:04d}.png", "prompt": f"<cat> {i}", "seed": i} for i in range(4)]
        (folder / "manifest.json").write_text(json.dumps({"made_by": "e2ed2 0", "images": rows}))
        paths.append(folder)
    written = write_comparison(compare(paths, baseline=paths[0]), tmp_path / "out", num_prompts=2)
    assert [path.name for path in written] == ["table.md", "grid-coco30k-aaaaaa.png", "compare.html"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "data:image/png;base64," in page and "published" in page and "://" not in page


def shipped(*names: str) -> list[Path]:
    return [WEIGHTS / name for name in names]


def test_shipped_evaluations_meet_in_one_table():
    paths = shipped(
        "emoji-autoencoder/evaluation/real.json", "emoji-autoencoder/evaluation/autoencoder.json",
        "emoji-base/evaluation/emoji-50.json", "emoji-lcm/evaluation/emoji-4.json", "emoji-lcm/evaluation/emoji-2.json",
        "emoji-lcm/evaluation/emoji-1.json", "emoji-e2ed2/evaluation/emoji-4.json",
        "emoji-e2ed2/evaluation/emoji-2.json", "emoji-e2ed2/evaluation/emoji-1.json",
    )  # fmt: skip
    [table] = compare(paths, metrics=["kernel_distance", "recall"])
    assert len(table.rows) == len(paths)


def test_emoji_protocols_do_not_mix():
    tables = compare(shipped("emoji-lcm/evaluation/emoji-4.json", "emoji-lcm/evaluation/heldout-4.json",
                             "emoji-lcm/evaluation/anystyle-4.json"))  # fmt: skip
    assert [table.protocol for table in tables] == ["emoji", "emoji-heldout", "emoji-anystyle"]
