"""Recipes: what loads, what is refused and in which words, what may change when a run is resumed."""

from pathlib import Path

import pytest
import yaml

from e2ed2.models.scheduler import ORIGINAL_INFERENCE_STEPS
from e2ed2.recipe.config import MAX_INFERENCE_STEPS
from e2ed2.recipe.load import build_config, changed_fields, check_config, load_config
from e2ed2.recipe.objective import IMAGE_TERMS, TERMS, EnergyConfig
from e2ed2.system.errors import UserError
from e2ed2.training.stages.terms import DECODER_TERMS, FEATURE_TERMS, LATENT_TERMS, SET_TERMS

FILES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
RECIPES = [path for path in FILES if path.parent.name not in ("ablation", "curation")]  # they have tests of their own
MINIMAL = {"stage": "e2ed2", "run": {"dir": "runs/x"}}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "stage: e2ed2\nrun: {dir: runs/x}\nmodel: {path: x}\nobjective: {l2: {weight: 1}}\ntrain: {lr: 1e-4}\n"
    )
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_write_to_a_folder_of_their_own_name(path):
    assert load_config(path).run.dir.name == path.stem


def test_the_resolved_config_reads_back_as_itself(recipe, tmp_path):
    overrides = ["objective.energy.weight=0.5", "objective.num_samples=2", "model.architecture={layers: [1, 2]}"]
    config = load_config(recipe, overrides)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config


def test_overrides_reach_any_field_and_are_read_as_yaml(recipe):
    overrides = ["train.lr=3e-5", "train.seed=7", "objective.energy={weight: 2, beta: 0.5}", "run.dir=elsewhere"]
    overrides += ["objective.num_samples=2"]
    config = load_config(recipe, [*overrides, "train.mixed_precision=no", "trajectory.gradient_checkpointing=yes"])
    assert (config.train.lr, config.train.seed, config.run.dir) == (3e-5, 7, Path("elsewhere"))
    assert config.objective.energy == EnergyConfig(weight=2, beta=0.5)
    assert (config.train.mixed_precision, config.trajectory.gradient_checkpointing) == ("no", True)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trian.lr=1", ["trian: unknown field", "train", "objective"]),
        ("train.learning_rate=1", ["train.learning_rate: unknown field", "lr", "max_train_steps"]),
        ("objective.l3.weight=1", ["objective.l3: unknown field", "l1", "l2", "patch_energy"]),
        ("objective.energy.wieght=1", ["objective.energy.wieght: unknown field; allowed here: weight, beta"]),
        ("train.lr=fast", ["train.lr: 'fast'", "number"]),
        ("train.lr=yes", ["train.lr: True", "not yes or no"]),
        ("train.lr=0", ["train.lr: 0", "greater than 0"]),
        ("train.lr=.inf", ["train.lr: inf", "finite"]),
        ("train.lr=.nan", ["train.lr: nan", "finite"]),
        ("train.max_train_steps=1.5", ["train.max_train_steps: 1.5", "integer"]),
        ("train.micro_batch_size=true", ["train.micro_batch_size: True", "integer"]),
        ("train.micro_batch_size=1000000", ["train.micro_batch_size: 1000000", "less than or equal to 65536"]),
        ("trajectory.lora_rank=1000000000", ["trajectory.lora_rank: 1000000000", "less than or equal to 65536"]),
        ("objective.num_samples=1000000000", ["objective.num_samples: 1000000000", "less than or equal to 65536"]),
        ("train.gradient_accumulation_steps=1000000", ["train.gradient_accumulation_steps: 1000000", "65536"]),
        ("data.window_size=1000000000000", ["data.window_size: 1000000000000", "less than or equal to 65536"]),
        ("data.size=1000000000000", ["data.size: 1000000000000", "less than or equal to 65536"]),
        ("data.buckets.sizes=[1024000000]", ["data.buckets.sizes.0: 1024000000", "less than or equal to 65536"]),
        ("data.path={0..3}.tar", ["override 'data.path={0..3}.tar': not a YAML value", "'data.path=\"...\"'"]),
        ("train.max_train_steps=10000000000", ["train.max_train_steps: 10000000000", "equal to 1000000000"]),
        ("train.lr=1e300", ["train.lr: '1e300'", "less than or equal to 1000000000000"]),
        ("train.weight_decay=1e300", ["train.weight_decay: '1e300'", "less than or equal to 1000000000000"]),
        ("objective.l2.weight=1e300", ["objective.l2.weight: '1e300'", "less than or equal to 1000000000000"]),
        ("trajectory.guidance_scale=1e300", ["trajectory.guidance_scale: '1e300'", "less than or equal to"]),
        ("consistency.num_ddim_steps=0", ["consistency.num_ddim_steps: 0", "greater than or equal to 1"]),
        ("consistency.num_ddim_steps=-50", ["consistency.num_ddim_steps: -50", "greater than or equal to 1"]),
        ("train.seed=-1", ["train.seed: -1", "greater than or equal to 0"]),
        ("train.seed=18446744073709551616", ["train.seed", "less than 9223372036854775808"]),
        ("train.mixed_precision=fp8", ["train.mixed_precision: 'fp8'", "'auto', 'no', 'fp16' or 'bf16'"]),
        ("trajectory.num_inference_steps=0", ["trajectory.num_inference_steps: 0", "greater than or equal to 1"]),
        ("trajectory.num_inference_steps=51", ["trajectory.num_inference_steps: 51", "less than or equal to 50"]),
        ("trajectory.start=noise", ["trajectory.start: 'noise'", "'pure_noise' or 'random_step'"]),
        ("consistency.num_ddim_steps=300", ["consistency.num_ddim_steps: 300", "one of 50, 100, 200, 250, 500, 1000"]),
        ("consistency.num_ddim_steps=20", ["consistency.num_ddim_steps: 20", "must be one of 50, 100"]),
        ("trajectory.num_backprop_steps=0", ["trajectory.num_backprop_steps: 0", "greater than or equal to 1"]),
        ("trajectory={parameters: per_step, random_num_steps: true}", ["trajectory.parameters: per_step needs"]),
        ("trajectory={parameters: per_step, num_inference_steps: 1}", ["per_step needs num_inference_steps of 2"]),
        ("trajectory.num_steps_weights=[4, 3, 2, 1]", ["weights: [4.0, 3.0, 2.0, 1.0], but every chain has 4 steps"]),
        ("trajectory={random_num_steps: true, num_steps_weights: [1]}", ["weights: [1.0], but", "from 1 to 4"]),
        ("trajectory={random_num_steps: true, num_steps_weights: [0, 0, 0, 0]}", ["not all 0"]),
        ("trajectory.num_steps_weights=[-1]", ["trajectory.num_steps_weights.0: -1", "greater than or equal to 0"]),
        ("trajectory.timesteps=[[999, 1000]]", ["trajectory.timesteps.0.1: 1000", "less than 1000"]),
        ("trajectory.timesteps=[[499, 999]]", ["trajectory.timesteps.0: [499, 999]", "must descend"]),
        (
            "trajectory={random_num_steps: true, timesteps: [[999, 499], [999, 99]]}",
            ["timesteps: grids of 2, 2 steps, but chains are trained with 1, 2, 3, 4", "timesteps=[[999, 99]]"],
        ),
        ("trajectory.timesteps=[[999, 99], [5, 4, 3, 2]]", ["with 4, one grid", "timesteps=[[5, 4, 3, 2]]"]),
        (
            "trajectory={random_num_steps: true, num_steps_weights: [1, 0, 0, 0], time_grid: learned}",
            ["trajectory.time_grid: learned, but chains of one step"],
        ),
        ("objective.adversarial.space=image", ["'latent', 'pixel' or 'feature'"]),
        ("objective.l2.weight=0", ["objective: no term has a weight", "objective.patch_energy.weight=1"]),
        ("objective.energy.weight=1", ["objective.num_samples: 1, but a scoring rule"]),
        ("objective.lpips_energy.weight=1", ["objective.num_samples: 1, but a scoring rule"]),
        ("objective.latent_lpips_energy.weight=1", ["objective.num_samples: 1, but a scoring rule"]),
        ("objective.latent_lpips_energy.beta=2", ["objective.latent_lpips_energy.beta: 2", "less than 2"]),
        ("objective.perceptual_network=resnet", ["perceptual_network: 'resnet'", "'bundled', 'alex', 'vgg' or 'squee"]),
        ("objective.kl.weight=1", ["objective.kl.weight: 1.0, but stage e2ed2 has the terms l1, l2"]),
        ("stage=lcm", ["objective.l2.weight: 1.0, but stage lcm has the terms none: its loss is fixed"]),
        ("model.path=", ["model.path: missing; stage e2ed2 needs a model folder"]),
        ("data.source=folder", ["data.path: missing"]),
        ("data.path=mine", ["data.path: mine, but data.source=emoji", "add data.source=folder"]),
        ("data.default_caption=7", ["data.default_caption: 7 is not allowed (", "string"]),
        ("trajectory.time_grid=learned_alone", ["time_grid: learned_alone needs trajectory.start=pure_noise"]),
        ("data.images_per_caption=0", ["data.images_per_caption: 0", "greater than or equal to 1"]),
        ("data.images_per_caption=2", ["data.images_per_caption: 2 is for scoring rules", "patch_energy"]),
        ("trajectory.coupling=ot", ["trajectory.coupling: 'ot'", "'optimal_transport' or 'teacher_pairs'"]),
        ("trajectory.coupling=teacher_pairs", ["trajectory.teacher: missing", "emoji-base"]),
        ("trajectory.teacher=x", ["trajectory.teacher: x, but only trajectory.coupling=teacher_pairs reads it"]),
        ("trajectory={coupling: teacher_pairs, teacher: x}", ["coupling: teacher_pairs needs trajectory.start=pure_"]),
        ("objective.energy.beta=2", ["objective.energy.beta: 2", "less than 2"]),
        ("data.max_bad_fraction=5", ["data.max_bad_fraction: 5", "less than or equal to 1"]),
        ("stage=gan", ["stage: 'gan'", "'autoencoder', 'base', 'lcm' or 'e2ed2'"]),
        ("train=3", ["train: 3", "section", "lr"]),
        ("train=", ["train: None", "section", "lr"]),
        ("train.lr", ["override 'train.lr'", "field.path=value"]),
        ("=3", ["override '=3'", "field.path=value"]),
        ("stage.lr=3", ["override 'stage.lr=3'", "not a section"]),
        ("train.lr={", ["override 'train.lr={'", "not a YAML value"]),
        ("train.lr=2024-13-45", ["override 'train.lr=2024-13-45'", "not a YAML value"]),
    ],
)
def test_a_mistake_names_field_value_and_what_is_allowed_in_one_line(recipe, override, parts):
    with pytest.raises(UserError) as caught:
        load_config(recipe, [override])
    message = str(caught.value)
    assert all(part in message for part in parts) and "\n" not in message, message


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("autoencoder", {"model": {}}, "model.architecture: missing; stage autoencoder"),
        ("autoencoder", {"model": {"architecture": {}}}, "objective.l1.weight: 0, but it is what makes"),
        ("base", {"model": {"architecture": {}}}, "model.path: missing; stage base needs an autoencoder's folder"),
        ("lcm", {"model": {"path": "x", "architecture": {}}}, "model.architecture: given, but stage lcm distils"),
        ("base", {"model": {"path": "x"}}, "model.architecture: missing; stage base"),
    ],
)
def test_what_a_stage_needs_is_asked_for(stage, fields, message):
    with pytest.raises(UserError, match=message):
        check_config(build_config({**MINIMAL, "stage": stage, **fields}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.images_per_caption=3", "objective.energy.weight=1", "train.micro_batch_size=10"],
            "train.micro_batch_size: 10, but data.plain_caption_fraction=0.25 .* give a multiple of 3 from 9",
        ),
        (
            ["data.images_per_caption=2", "objective.energy.weight=1", "train.micro_batch_size=2"],
            "train.micro_batch_size: 2, but data.plain_caption_fraction=0.25 .* give a multiple of 2 from 6",
        ),
        (
            ["data.images_per_caption=2", "objective={energy: {weight: 1}}"],
            "data.images_per_caption: 2: scoring rules judge plain captions .* no term judges the rest image by image",
        ),
        (
            ["data={images_per_caption: 2, plain_caption_fraction: 1}", "objective={energy: {weight: 1}}"],
            "data.images_per_caption: 2: scoring rules .* and trajectory.start=pure_noise",
        ),
        (
            ["data={images_per_caption: 2, plain_caption_fraction: 1}", "objective.energy.weight=1"]
            + ["objective.mmd.weight=1"],
            "objective.mmd.weight: compares samples of full captions, but with data.plain_caption_fraction=1",
        ),
        (
            ["data.caption_dropout=1", "objective.mmd.weight=1"],
            "objective.mmd.weight: compares samples of full captions, and data.caption_dropout=1 leaves none",
        ),
        (
            ["data.images_per_caption=2", "objective.energy.weight=1"]
            + ["trajectory={start: pure_noise, coupling: teacher_pairs, teacher: x}"],
            "trajectory.coupling: teacher_pairs needs .* data.images_per_caption=1",
        ),
        (
            ["stage=lcm", "objective.l2.weight=0", "data.images_per_caption=2"],
            "data.images_per_caption: 2 is for scoring rules of stage e2ed2",
        ),
        (
            ["stage=lcm", "objective.l2.weight=0", "trajectory.coupling=optimal_transport"],
            "trajectory.coupling: optimal_transport, but stage lcm starts at no noise",
        ),
        (
            ["trajectory={coupling: optimal_transport, start: pure_noise}", "train.micro_batch_size=1"],
            "train.micro_batch_size: 1, but trajectory.coupling=optimal_transport permutes .* 2 or more, or",
        ),
        (
            ["trajectory.coupling=optimal_transport", "objective={energy: {weight: 1}, num_samples: 2}"],
            "trajectory.coupling: optimal_transport, but energy would not be proper .*: add data.images_per_caption=2",
        ),
        (
            ["data.plain_caption_fraction=1", "objective.mmd.weight=1"],
            "objective.mmd.weight: compares samples of full captions, but with data.plain_caption_fraction=1",
        ),
        (
            ["data={images_per_caption: 3, plain_caption_fraction: 0.75}", "train.micro_batch_size=6"]
            + ["objective={l2: {weight: 1}, energy: {weight: 1}, mmd: {weight: 1}}"],
            "objective.mmd.weight: .*plain_caption_fraction=0.75 there are 0 in 6 rows, and it needs 2",
        ),
        (
            ["data={images_per_caption: 3, plain_caption_fraction: 0.75}", "train.micro_batch_size=6"]
            + ["objective={l2: {weight: 1}, lpips: {weight: 1}, energy: {weight: 1}}", "trajectory.start=pure_noise"],
            "data.images_per_caption: 3 groups all 6 rows where .*=0.75, .* l2, lpips would judge nothing",
        ),
        (
            ["data={images_per_caption: 2, plain_caption_fraction: 1}", "objective.energy.weight=1"]
            + ["trajectory.num_inference_steps=1"],
            "data.images_per_caption: 2 groups all 16 rows .* starts from noise l2 would judge nothing",
        ),
        (
            ["data={images_per_caption: 2, plain_caption_fraction: 0.5}"]
            + ["objective={energy: {weight: 1}, keep: {weight: 1}}"],
            "data.images_per_caption: 2: scoring rules judge .* and no term judges the rest image by image",
        ),
    ],
)
def test_couplings_and_class_batches_that_cannot_be_are_refused(recipe, overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(recipe, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trajectory={time_grid: learned, start: pure_noise, num_backprop_steps: 2}"],
            "trajectory.num_backprop_steps: 2, but time_grid=learned needs the gradient of all steps .* leave one out",
        ),
        (
            ["trajectory={time_grid: learned_alone, start: pure_noise, num_inference_steps: 1}"],
            "trajectory.time_grid: learned_alone, but chains of one step keep their only timestep: train more",
        ),
        (
            ["trajectory.parameters=lora", "model.architecture={layers: 1}"],
            "trajectory.parameters: lora, but model.architecture makes a new network, .* leave one out",
        ),
        (
            ["trajectory.parameters=lora_per_step", "model.architecture={layers: 1}"],
            "trajectory.parameters: lora_per_step, but model.architecture makes a new network",
        ),
        (
            ["model.gradient_checkpointing=selective", "trajectory.gradient_checkpointing=true"],
            "model.gradient_checkpointing: selective, but .* keep what is selected of every step: set one false",
        ),
        (
            ["trajectory={parameters: per_step, start: pure_noise, num_backprop_steps: 3}"],
            "trajectory.num_backprop_steps: 3, but with parameters=per_step the sets of steps before .* or take shared",
        ),
        (
            ["objective.intermediate_weight=0.5", "trajectory.num_backprop_steps=3"],
            "intermediate_weight: 0.5, but with trajectory.num_backprop_steps=3 of 4 the estimates .* leave one out",
        ),
        (
            ["objective.intermediate_weight=0.5", "trajectory.num_inference_steps=1"],
            "intermediate_weight: 0.5, but chains of one step have none before the last: train more",
        ),
    ],
)
def test_what_would_never_get_a_gradient_is_refused(recipe, overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(recipe, overrides)


AUTOENCODER = ["stage=autoencoder", "model={architecture: {layers: 1}}", "objective={l1: {weight: 1}}"]
LCM, BASE = ["stage=lcm", "objective={}"], ["stage=base", "objective={}", "model.architecture={layers: 1}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*LCM, "trajectory.time_grid=learned"], "time_grid: learned, but stage lcm trains through no sampler"),
        ([*LCM, "trajectory.timesteps=[[999, 143]]"], "trajectory.timesteps: .* but stage lcm trains through"),
        ([*LCM, "trajectory.random_num_steps=true"], "random_num_steps: True, but stage lcm trains through no sampler"),
        ([*BASE, "trajectory.start=pure_noise"], "trajectory.start: pure_noise, but stage base trains through no"),
        ([*LCM, "trajectory.num_backprop_steps=2"], "num_backprop_steps: 2, but stage lcm trains through no sampler"),
        ([*LCM, "trajectory.parameters=lora"], "trajectory.parameters: lora, but stage lcm trains through no sampler"),
        ([*LCM, "objective.num_samples=2"], "objective.num_samples: 2, but stage lcm trains through no sampler"),
        ([*LCM, "objective.intermediate_weight=1"], "intermediate_weight: 1.0, but stage lcm trains through no"),
        ([*LCM, "objective.crop.size=8"], "objective.crop.size: 8, but no term has a weight that sees decoded images"),
        ([*BASE, "trajectory.parameters=per_step"], "parameters: per_step, but stage base trains through no sampler"),
        ([*BASE, "trajectory.time_grid=learned"], "trajectory.time_grid: learned, but stage base trains through no"),
        ([*BASE, "consistency.huber_c=1"], "consistency.huber_c: 1.0, but stage base distils nothing: leave it out"),
        (["consistency.teacher=x"], "consistency.teacher: x, but stage e2ed2 distils nothing: leave it out"),
        (["model={path: x, architecture: {a: 1}, network: y}"], "model.network: y, but model.architecture makes a new"),
        (["model={path: x, architecture: {a: 1}, revision: y}"], "model.revision: y, but model.architecture makes a"),
        (["objective.crop.size=8"], "objective.crop.size: 8, but no term has a weight that sees decoded images"),
        (["objective={latent_lpips: {weight: 1}, crop: {size: 8}}"], "crop.size: 8, but no term has a weight that"),
        (["objective.perceptual_network=vgg"], "perceptual_network: vgg, but no term has a weight that sees features"),
        (
            ["objective={adversarial: {weight: 1, space: pixel}, perceptual_network: vgg}"],
            "perceptual_network: vgg, but no term has a weight that sees features of images",
        ),
        (["objective.energy.beta=0.5"], "objective.energy.beta: 0.5, but objective.energy.weight is missing"),
        (["objective.adversarial.buffer_size=8"], "adversarial.buffer_size: 8, but objective.adversarial.weight is"),
        (["objective={lpips: {weight: 1}, crop: {halo: 2}}"], "crop.halo: 2, but objective.crop.size is not given"),
        ([*BASE, "trajectory.num_inference_steps=2"], "num_inference_steps: 2, but stage base makes no few-step sampl"),
        ([*BASE, "trajectory.guidance_scale=3"], "guidance_scale: 3.0, but stage base makes no few-step sampler"),
        ([*AUTOENCODER, "data.caption_dropout=0.1"], "data.caption_dropout: 0.1, but stage autoencoder reads no capt"),
        ([*AUTOENCODER, "model.path=x"], "model.path: x, but stage autoencoder starts from nothing"),
        (
            ["trajectory={start: pure_noise, coupling: teacher_pairs, teacher: x}", "data.caption_dropout=0.1"],
            "data.caption_dropout: 0.1, but trajectory.coupling=teacher_pairs draws full captions alone: leave it out",
        ),
        (["trajectory.lora_rank=4"], "trajectory.lora_rank: 4, but trajectory.parameters=shared adds no LoRA"),
        (
            ["trajectory={parameters: per_step, lora_targets: [to_q]}"],
            r"lora_targets: \['to_q'\], but trajectory.parameters=per_step adds no LoRA: leave it out",
        ),
    ],
)
def test_fields_that_nothing_would_read_are_refused(recipe, overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(recipe, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trajectory={parameters: per_step, start: pure_noise, num_backprop_steps: 4}"],
        ["trajectory={parameters: lora, lora_rank: 4, start: pure_noise, num_backprop_steps: 1}"],
        ["objective.intermediate_weight=0.5", "trajectory.num_backprop_steps=4"],
        ["objective.adversarial={weight: 0, space: pixel, buffer_size: 8}"],
        ["objective={adversarial: {weight: 1, space: pixel}, crop: {size: 8}}"],
        ["objective={adversarial: {weight: 1, space: feature}, perceptual_network: vgg}"],
        ["objective={mmd: {weight: 1}, crop: {size: 8}, perceptual_network: vgg}"],
        [*LCM, "consistency={teacher: x, huber_c: 1}"],
        ["trajectory={coupling: optimal_transport, start: pure_noise}", "objective.energy.weight=1"]
        + ["data.images_per_caption=2"],
        ["data={images_per_caption: 2, plain_caption_fraction: 1}", "objective.energy.weight=1"],
        ["data={images_per_caption: 2, plain_caption_fraction: 1}", "objective={energy: {weight: 1}}"]
        + ["trajectory.start=pure_noise"],
        ["data={images_per_caption: 2, plain_caption_fraction: 1}", "trajectory.start=pure_noise"]
        + ["objective={energy: {weight: 1}, keep: {weight: 1}}"],
        ["data={images_per_caption: 2, plain_caption_fraction: 1}", "trajectory.num_inference_steps=1"]
        + ["objective={energy: {weight: 1}, denoising: {weight: 1}}"],
    ],
)
def test_what_comes_close_to_a_refusal_and_does_something_is_accepted(recipe, overrides):
    assert load_config(recipe, overrides)


def test_one_sample_is_enough_for_a_scoring_rule_in_class_batches(recipe):
    batch = ["data.images_per_caption=2", "trajectory.start=pure_noise"]
    assert load_config(recipe, ["objective.energy.weight=1", *batch]).objective.num_samples == 1


def test_every_mistake_is_reported_at_once(recipe):
    with pytest.raises(UserError, match=r"train\.lr: -1 .*; train\.sed: unknown field"):
        load_config(recipe, ["train.lr=-1", "train.sed=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected fields such as 'stage: e2ed2', found nothing"),
        ("- 1", "expected fields such as 'stage: e2ed2', found list"),
        ("a: [", "not YAML"),
        ("a: 2024-13-45", "not YAML"),
        ("train:\n  lr: 1\n  seed: 2\n  lr: 3", "not YAML \\(line 4, column 3: 'lr' is given twice\\)"),
        (b"\xff\xfe\x00", "line 1 is not UTF-8 text .byte 0xff."),
        ("stage: e2ed2", r"run\.dir: missing; add it to the recipe or pass run\.dir=VALUE"),
        ("stage: e2ed2\nrun: {}", r"run\.dir: missing"),
        ("run: {dir: x}", "stage: missing"),
    ],
)
def test_a_broken_recipe_is_refused(recipe, text, message):
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load_config(recipe)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match=r"recipe .*nowhere\.yaml: no such file, and none of that name ships:"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_largest_number_of_steps_is_the_samplers_grid():
    assert MAX_INFERENCE_STEPS == ORIGINAL_INFERENCE_STEPS


def test_every_term_of_the_config_is_one_of_the_stage_s():
    named = LATENT_TERMS.keys() | FEATURE_TERMS.keys() | SET_TERMS.keys() | DECODER_TERMS.keys()
    assert set(TERMS["e2ed2"]) == named | {"adversarial", "denoising", "keep", "plugin"}  # the stage's own
    assert FEATURE_TERMS.keys() | SET_TERMS.keys() == IMAGE_TERMS


def changes(before, now):
    recorded = yaml.safe_load(build_config({**MINIMAL, **before}).to_yaml())
    return changed_fields(recorded, build_config({**MINIMAL, **now}))


def test_what_alters_an_update_counts_as_changed():
    now = {"train": {"lr": 1e-3}, "objective": {"l2": {"weight": 1}}}
    assert changes({}, now) == {"train.lr": (2e-5, 1e-3), "objective.l2.weight": (0.0, 1.0)}


def test_an_architecture_is_compared_entry_by_entry():
    before = {"model": {"architecture": {"num_layers": 2, "sample_size": 8}}}
    now = {"model": {"architecture": {"num_layers": 3, "sample_size": 8, "dropout": 0.1}}}
    expected = {"model.architecture.num_layers": (2, 3), "model.architecture.dropout": (None, 0.1)}
    assert changes(before, now) == expected


@pytest.mark.parametrize("field", ["checkpoint_every", "log_every", "preview_every", "keep_checkpoints"])
def test_how_often_a_run_writes_may_change(field):
    assert changes({}, {"train": {field: 3}, "run": {"dir": "moved"}}) == {}


def test_a_run_may_become_longer_only_at_a_constant_rate():
    assert changes({}, {"train": {"max_train_steps": 2000}}) == {}
    cosine = {"train": {"lr_schedule": "cosine"}}
    longer = {"train": {"lr_schedule": "cosine", "max_train_steps": 2000}}
    assert changes(cosine, longer) == {"train.max_train_steps": (1000, 2000)}


def test_a_field_that_an_earlier_version_did_not_know_had_its_default():
    recorded = yaml.safe_load(build_config(MINIMAL).to_yaml())
    recorded["train"]["momentum"] = 0.9
    del recorded["train"]["max_grad_norm"]
    assert changed_fields(recorded, build_config(MINIMAL)) == {}
    stricter = build_config({**MINIMAL, "train": {"max_grad_norm": 0.5}})
    assert changed_fields(recorded, stricter) == {"train.max_grad_norm": (1.0, 0.5)}


def test_a_run_inside_its_own_data_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["data.source=folder", f"data.path={tmp_path}"]
    for run_dir in (tmp_path, "runs/x", tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=r"^run.dir: .* lies in data.path and would add images to it"):
            load_config(recipe, [*data, f"run.dir={run_dir}"])
    load_config(recipe, ["data.source=folder", f"data.path={tmp_path / 'images'}", f"run.dir={tmp_path / 'runs'}"])


def test_a_default_caption_is_one_line_of_text_less_blanks_too_many(recipe):
    overrides = ["data.source=folder", "data.path=mine"]
    assert load_config(recipe, overrides).data.default_caption is None
    for said in ("a photo of sks dog", '" a  photo of\\tsks dog\\n"'):
        config = load_config(recipe, [*overrides, f"data.default_caption={said}"])
        assert config.data.default_caption == "a photo of sks dog"
    for said in ('""', '" "', '"\\n"', '"a photo\\nof a dog"', '"a photo\\u2028of a dog"'):
        with pytest.raises(UserError, match=r"^data.default_caption: .* is not allowed \(a caption is one line"):
            load_config(recipe, [*overrides, f"data.default_caption={said}"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "'a dog', but data.source=emoji has a caption for every image: leave it out"),
        ({"source": "cache", "path": "x"}, "'a dog', but a cache holds captions .*give it to `e2ed2 precompute`"),
        ({"sources": [{"source": "folder", "path": "x"}]}, "'a dog', but data.sources have their own: give it there"),
    ],
)
def test_a_default_caption_that_nothing_would_read_is_refused(data, message):
    values = MINIMAL | {"model": {"path": "x"}, "objective": {"l2": {"weight": 1}}}
    check_config(build_config(values | {"data": data}))
    with pytest.raises(UserError, match=f"^data.default_caption: {message}"):
        check_config(build_config(values | {"data": {**data, "default_caption": "a dog"}}))


def test_a_default_caption_goes_with_the_source_that_is_replaced(recipe):
    source = "data: {source: folder, path: x, default_caption: a dog}"
    recipe.write_text(f"{recipe.read_text()}{source}\n")
    assert load_config(recipe).data.default_caption == "a dog"
    assert load_config(recipe, ["data.source=emoji"]).data.default_caption is None
