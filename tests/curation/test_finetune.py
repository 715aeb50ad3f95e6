"""What curation writes is what training reads: a folder, curated, then a tiny model moved to it."""

import pytest

from e2ed2.finetune.run import choose_finetune
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from tests.curation.conftest import pipeline_of, run


@pytest.mark.slow
def test_finetune_goes_on_with_the_shards(tiny_model, photos, tmp_path):
    rows = run(pipeline_of(tmp_path / "curated", f"input.path={photos}", "select.count=8", "output.items_per_shard=4"))
    quick = ["train.max_train_steps=2", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1"]
    quick += ["train.mixed_precision=no", "objective.keep.weight=0", "train.log_every=1"]
    chosen = choose_finetune(str(tiny_model), str(tmp_path / "curated" / "shards"), tmp_path / "run", overrides=quick)
    assert chosen.config.data.source == "webdataset"
    train(chosen.config, say=lambda line: None)
    assert [row["global_step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    assert sum(row["kept"] for row in rows.values()) == 8
