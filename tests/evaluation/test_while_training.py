"""A protocol over files, measured while a tiny pipeline trains: the figures of `e2ed2 evaluate` on the same weights."""

import json

import pytest

from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.results import read_jackknife
from e2ed2.recipe.load import build_config
from e2ed2.reports.run_page import write_report
from e2ed2.system.drawing.figures import central
from e2ed2.training.loop import train
from tests.evaluation.tiny import LINE, draw_images


@pytest.mark.slow
def test_the_figures_are_those_of_evaluate(tiny_model, protocol, tmp_path):
    path, run_dir = protocol(metrics=["kid", "clip_score"]), tmp_path / "run"
    for i, word in enumerate(LINE.split()):
        (draw_images(tmp_path / "data", 24, side=64) / f"{i:04d}.txt").write_text(f"a {word}")
    config = build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": run_dir},
            "model": {"path": str(tiny_model)},
            "data": {"source": "folder", "path": str(tmp_path / "data"), "size": 64},
            "trajectory": {"num_inference_steps": 2},
            "objective": {"l2": {"weight": 1}},
            "train": {"max_train_steps": 4, "micro_batch_size": 4, "lr": 1e-3, "log_every": 1},
            "evaluation": {"protocol": str(path), "every": 2, "metric": "clip_score", "steps": 2},
        }
    )
    model = train(config, lambda line: None)
    results = [json.loads((run_dir / f"evaluation/step-{n:06d}/evaluation.json").read_text()) for n in (0, 2, 4)]
    start = evaluate(str(tiny_model), str(path), steps=2, out=tmp_path / "start")
    end = evaluate(str(model), str(path), steps=2, out=tmp_path / "end")
    assert start is not None and end is not None
    for found, expected in ((results[0], start), (results[2], end)):
        for name, estimate in expected["metrics"].items():
            assert found["metrics"][name] == pytest.approx(estimate, rel=1e-5)
    assert results[0]["metrics"] != results[2]["metrics"]
    step = run_dir / "evaluation" / "step-000004"
    assert set(read_jackknife(step)) == {"kid", "clip_score"}, "for paired differences"
    assert not (step / "images").exists() and not (step / "model").exists() and (step / "grid.png").exists()
    scores = [result["metrics"]["clip_score"]["value"] for result in results]
    best = json.loads((run_dir / "best" / "training.json").read_text())["global_step"]
    assert best == 2 * scores.index(max(scores))
    card = (model / "README.md").read_text()
    assert card.count("## Measured") == 1 and f"| CLIP score | {central(end['metrics']['clip_score'])} |" in card
    page = write_report(run_dir).read_text()
    assert f"The best by CLIP score is that of step {best}" in page and page.count('class="band"') == 2
