"""Two processes on a CPU train one network."""

import time

import pytest
from safetensors.torch import load_file

from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import build_config, load_config
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from tests.training.cluster.photos import save_photos
from tests.training.cluster.ranks import launch

TRAIN = """
import gc, sys
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from e2ed2.cli import main

destroy = torch.distributed.destroy_process_group

def checked(group=None):
    assert not any(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects()), "outlives its group"
    destroy(group)

torch.distributed.destroy_process_group = checked
sys.argv = ["e2ed2", "train", sys.argv[1]]
main()
"""


def train_two(recipe, tmp_path, meanwhile=lambda processes: None):
    """`e2ed2 train` in two processes, by the variables that `torchrun` sets."""
    return launch(2, ["-c", TRAIN, recipe], {"E2ED2_CACHE": str(tmp_path / "cache")}, meanwhile)


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos")


@pytest.fixture
def recipe(photos, tmp_path):
    """`recipe(name, **train)` -> a recipe of a tiny autoencoder that trains in the folder `name`."""

    def write(name, **train):
        values = {
            "stage": "autoencoder",
            "run": {"dir": str(tmp_path / name)},
            "model": {"architecture": {"block_out_channels": [8], "norm_num_groups": 4, "latent_channels": 4}},
            "data": {"source": "folder", "path": str(photos)},
            "objective": {"l1": {"weight": 1}},
            "train": {"max_train_steps": 2, "log_every": 1, "lr": 1e-3, "mixed_precision": "no", **train},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(build_config(values).to_yaml())
        return path

    return write


@pytest.mark.slow
def test_two_processes_are_two_micro_batches(recipe, tmp_path, one_thread):
    """The rows, the noise and so the losses and the update of one process that accumulates two.

    With as many threads as each of them: what has no gradient but rounding (a bias of keys) AdamW makes steps of.
    """
    ends = train_two(recipe("two", micro_batch_size=2), tmp_path)
    assert [code for _, code in ends] == [0, 0], "\n".join(error[-2000:] for error, _ in ends)
    train(load_config(recipe("one", micro_batch_size=2, gradient_accumulation_steps=2)))
    two, one = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("two", "one"))
    names = ("images_seen", "l1", "kl", "total", "grad_norm")
    for row, expected in zip(two, one, strict=True):
        assert [row[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-4)
    assert one[0]["l1"] != pytest.approx(one[1]["l1"], rel=1e-2)
    two, one = (load_file(tmp_path / run / "checkpoints/step-2/model.safetensors") for run in ("two", "one"))
    assert two.keys() == one.keys() and all(two[name].allclose(one[name], atol=1e-5) for name in two)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_after_the_same_update(recipe, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"

    def kill(processes):
        while processes[1].poll() is None and len(read_metrics(metrics)) < 2:
            time.sleep(0.05)
        processes[1].terminate()

    often = {"max_train_steps": 100_000, "checkpoint_every": 100_000}
    ends = train_two(recipe("run", micro_batch_size=2, **often), tmp_path, kill)
    assert [code for _, code in ends] == [130, 130], "\n".join(error[-2000:] for error, _ in ends)
    step = len(read_metrics(metrics))
    told = f"interrupted: step {step} is saved; run the same command to go on"
    assert sum(told in error for error, _ in ends) == 1, "the first to end says so"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{step}"]


@pytest.mark.slow
def test_a_set_per_step_trains_though_an_update_leaves_some_out(tiny_model, photos, tmp_path):
    """Each process draws the step that it starts at: before it a set has no gradient there, perhaps in neither."""
    often = {"log_every": 1, "preview_every": 100, "mixed_precision": "no"}
    config = build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": str(tmp_path / "run")},
            "model": {"path": str(tiny_model)},
            "data": {"source": "folder", "path": str(photos)},
            "trajectory": {"num_inference_steps": 2, "parameters": "per_step", "start": "random_step"},
            "objective": {"l2": {"weight": 1}},
            "train": {"max_train_steps": 3, "micro_batch_size": 2, "lr": 1e-3, **often},
        }
    )
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    ends = train_two(tmp_path / "recipe.yaml", tmp_path)
    assert [code for _, code in ends] == [0, 0], "\n".join(error[-2000:] for error, _ in ends)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["images_seen"] for row in rows] == [4, 8, 12]  # of both
    for row in rows:  # so are the chains, by where they began
        counts = {name.partition("/")[2]: count for name, count in row.items() if name.startswith("chains/")}
        assert sum(counts.values()) == 2 and counts.keys() <= {"from_1_of_2", "from_2_of_2"}
        assert row["l2"] == pytest.approx(sum(row[f"l2/{place}"] * count for place, count in counts.items()) / 2)
    assert load_pipeline(tmp_path / "run" / "model")[1].transformers == ["transformer", "transformer_2"]
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-3" / "model.safetensors")
    first, second = (weights[f"transformers.{k}.proj_out.weight"] for k in range(2))
    start = load_pipeline(tiny_model)[0].transformer.proj_out.weight
    assert not first.equal(start) and not second.equal(start) and not first.equal(second)
