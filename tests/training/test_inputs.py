"""A dry run finds what is not there, loads nothing and leaves nothing."""

import pytest

from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.inputs import check_inputs


@pytest.fixture
def recipe(tiny_model, pictures, tmp_path):
    def build(model=None, data=None, **sections):
        model = {"path": str(tiny_model), **(model or {})}
        data = {"source": "folder", "path": str(pictures), **(data or {})}
        values = {"stage": "e2ed2", "run": {"dir": tmp_path / "run"}, "objective": {"l2": {"weight": 1}}}
        return build_config({**values, "model": model, "data": data, **sections})

    return build


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"path": "nowhere"}}, "data.path 'nowhere' is not a folder"),
        ({"data": {"source": "parquet", "path": "no.parquet"}}, "data.path 'no.parquet'"),
        ({"data": {"source": "webdataset", "path": "none/*.tar"}}, "data.path 'none/..tar': no .tar shards"),
        ({"data": {"source": "cache", "path": "none"}}, "none"),
        ({"model": {"path": "nowhere"}}, "model 'nowhere': no such folder"),
        ({"model": {"path": "runs/emoji/lcm/model"}}, "model 'runs/emoji/lcm/model': no such folder"),
        ({"model": {"network": "no.safetensors"}}, "model.network: no.safetensors: no such file"),
        ({"model": {"network": "out/x.ckpt"}}, "model.network: out/x.ckpt: no such file"),
        ({"trajectory": {"teacher": "nope"}}, "model 'nope': no such folder"),
        ({"run": {"dir": __file__}}, "run.dir .*test_inputs.py: .* is a file; name a folder"),
        ({"model": {"lora": ["no.safetensors"]}}, "model.lora: no.safetensors: no such file"),
        ({"train": {"trackers": ["clearml"]}}, "train.trackers: clearml is not installed"),
    ],
)
def test_what_is_not_there_is_named(recipe, sections, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_inputs(recipe(**sections))
    assert not (tmp_path / "run").exists()


def test_what_is_there_passes_and_the_hub_is_left_for_the_run(recipe):
    assert check_inputs(recipe()) == []
    assert check_inputs(recipe(model={"path": "org/name", "lora": ["org/other", "org/other/file.safetensors"]})) == [
        "org/name", "org/other", "org/other/file.safetensors"
    ]  # fmt: skip
    assert check_inputs(recipe(data={"source": "hub", "path": "org/set"})) == ["org/set"]
    assert check_inputs(recipe(data={"source": "emoji", "path": None}, model={"path": "emoji-lcm"})) == []
