"""A recipe chosen for a model and a user's images, and what a run folder of an earlier one says to it."""

import shutil
from pathlib import Path

import pytest

from e2ed2.finetune.run import Finetune, choose_finetune
from e2ed2.system.errors import UserError
from tests.data.conftest import png, write_tar
from tests.evaluation.tiny import draw_images
from tests.models.tiny import save_tiny


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def chosen(tiny_model, pictures, out):
    """`chosen(...)` for a tiny model and four captioned pictures."""

    def choose(*overrides: str, model: object = tiny_model, data: object = pictures, **options: object) -> Finetune:
        return choose_finetune(str(model), str(data), out, overrides=overrides, **options)

    return choose


@pytest.fixture
def begun(chosen, out):
    """A run of them that was begun, with a term of its own."""
    found = chosen("objective.l1.weight=2", "train.mixed_precision=no")  # as a run records it
    out.mkdir()
    (out / "config.yaml").write_text(found.config.to_yaml())
    return found


def test_a_folder_of_images_is_trained_on_as_it_lies(chosen, tiny_model, pictures, out):
    found = chosen()
    config = found.config
    assert (config.model.path, config.run.dir) == (str(tiny_model), out)
    assert (config.data.source, config.data.path, config.data.size) == ("folder", str(pictures), 64)
    assert len(found.reasons) == 6
    assert not out.exists()


def test_few_images_are_noted(chosen, tmp_path):
    def last(count: int) -> str:
        folder = draw_images(tmp_path / str(count), count)
        return chosen(data=folder, prompt="a cat").reasons[-1]

    note = "with fewer than 8 a model learns these very pictures"
    assert last(1) == f"note: 1 image; {note}"
    assert last(7) == f"note: 7 images; {note}"
    assert last(8).startswith("batch: ")


def test_one_prompt_for_all_images_makes_pairs_and_captions_of_their_own_do_not(chosen, tmp_path):
    folder = draw_images(tmp_path / "photos", 8)
    message = "none of its 8 images is usable: .*0000.png: no caption.*; --prompt gives a caption to all"
    with pytest.raises(UserError, match=f"^DATA '{folder}': {message}"):
        chosen(data=folder)
    config = chosen(data=folder, prompt="a photo of sks dog").config
    assert config.data.default_caption == "a photo of sks dog"
    assert config.data.images_per_caption == 2 and config.objective.patch_energy.weight > 0
    for i in range(8):
        (folder / f"{i:04d}.txt").write_text(f"dog {i}")
    config = chosen(data=folder).config
    assert config.data.images_per_caption == 1 and config.objective.mmd.weight > 0


def test_of_shards_nothing_is_read(chosen, tmp_path):
    write_tar(tmp_path / "0.tar", {str(i): {"png": png(i), "txt": b"one"} for i in range(4)})
    found = chosen(data=tmp_path / "0.tar")
    assert found.config.data.source == "webdataset" and found.config.objective.mmd.weight > 0
    assert len(found.reasons) == 5


def test_overrides_count_more_than_what_is_chosen(chosen, tiny_model):
    overrides = ["train.lr=1e-5", "objective.mmd.weight=0", "data.buckets.sizes=[128]"]
    config = chosen(*overrides, "model.gradient_checkpointing=yes").config
    assert (config.train.lr, config.objective.mmd.weight, config.data.buckets.sizes) == (1e-5, 0, [128])
    assert config.model.gradient_checkpointing and config.model.path == str(tiny_model)
    assert chosen(steps=2).config.trajectory.num_inference_steps == 2


def test_captions_are_those_of_the_columns_that_overrides_name(chosen, tmp_path):
    folder = draw_images(tmp_path / "photos", 8)
    rows = [f'{{"file_name": "{i:04d}.png", "title": "one dog", "text": "dog {i}"}}\n' for i in range(8)]
    (folder / "metadata.jsonl").write_text("".join(rows))
    assert chosen(data=folder).config.data.images_per_caption == 1
    assert chosen("data.caption_column=title", data=folder).config.data.images_per_caption == 2


@pytest.mark.parametrize("override", ["run.dir=elsewhere", "run={dir: elsewhere}"])
def test_the_run_folder_is_given_as_an_option(chosen, override):
    with pytest.raises(UserError, match=r"^run\.dir: this command writes to --out; give that instead$"):
        chosen(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", r"train\.lrr: unknown field"),
        ("model.lroa=[x]", r"^model: lroa: "),
        ("data.size=huge", r"^data: size: "),
        ("data.path", "expected field.path=value"),
        ("data.path=[", "not a YAML value"),
        ("data.source=emoji", r"^data\.path: .* but data\.source=emoji reads no folder"),
    ],
)
def test_wrong_overrides_are_one_line(chosen, override, message):
    with pytest.raises(UserError, match=message) as caught:
        chosen(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 51])
def test_steps_are_within_what_a_sampler_has(chosen, steps):
    with pytest.raises(UserError, match=f"--steps.* {steps}"):
        chosen(steps=steps)


def test_a_run_that_was_begun_keeps_what_was_chosen(chosen, begun):
    assert chosen() == Finetune(begun.config, []) and begun.config.objective.l1.weight == 2
    assert chosen("train.max_train_steps=7", steps=4).config.train.max_train_steps == 7


def test_a_run_that_was_begun_needs_no_steps_again(chosen, out, tmp_path):
    slow = save_tiny("StableDiffusionPipeline", tmp_path / "slow")
    begun = chosen("train.mixed_precision=no", model=slow, steps=4).config
    with pytest.raises(UserError, match="give --steps"):
        chosen(model=slow)
    out.mkdir()
    (out / "config.yaml").write_text(begun.to_yaml())
    assert chosen(model=slow).config == begun


def test_a_run_of_something_else_is_refused(chosen, begun, tiny_model, pictures, out, tmp_path):
    other_model, other_data = tmp_path / "other", tmp_path / "photos"
    shutil.copytree(tiny_model, other_model)
    shutil.copytree(pictures, other_data)

    def refused(name: str, before: object, now: object, **options: object) -> None:
        with pytest.raises(UserError) as caught:
            chosen(**options)
        assert str(caught.value) == f"--out {out}: holds a run with {name}={before}, not {now}; give another folder"

    refused("model.path", tiny_model, other_model, model=other_model)
    refused("data.path", pictures, other_data, data=other_data)
    refused("data.default_caption", None, "a dog", prompt="a dog")
    refused("trajectory.num_inference_steps", 4, 2, steps=2)
    (out / "config.yaml").write_text("train: {mixed_precision: 'no'}\nmodel: 3\n")
    refused("model.path", None, tiny_model)
