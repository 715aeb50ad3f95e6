"""Recipes and overrides as a hasty hand leaves them: read, or refused in one line that names the field."""

import json
from pathlib import Path

import pytest
import yaml

from e2ed2.recipe.load import build_config, load_config
from e2ed2.system.errors import UserError
from tests.mangle import ODD, mangled_bytes, mangled_values, share_taken

FOLDER = Path(__file__).parents[2] / "recipes"
FILES = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.parent.name not in ("ablation", "curation")]
MINIMAL = {"stage": "e2ed2", "run": {"dir": "runs/x"}, "model": {"path": "x"}, "objective": {"l2": {"weight": 1}}}
MISTAKES = {
    "train: {lr: !!bool banana}": "line 1, column 13: 'banana' is no bool",
    "train: {lr: !!timestamp banana}": "line 1, column 13: 'banana' is no timestamp",
    "train: {seed: !!int é}": "line 1, column 15: 'é' is no int",
    "train: &a {lr: *a}": "holds itself",
    "train: " + "[" * 1000: "not YAML",
    "train: {seed: " + "9" * 5000 + "}": "train.seed: |digits|no int",
    'run: {dir: "a\\0b"}': "a NUL character",
    'run: {dir: "caf\\ud83d"}': r"half a character \(\\ud83d alone\)",
    'run: {"d\\nir": x}': "run.'d.nir': unknown field",
    "? [train]\n: 1": "line 1, column 3: a key that is no text",
    "1: 2": "the key 1 is no text",
    "model: {architecture: {x: 2026-01-01}}": "model.architecture.x: datetime.date.* not a valid JSON value",
    "model: {architecture: {x: [!!binary gIGC]}}": "model.architecture.x.* not a valid JSON value",
    "data: {sources: [3]}": "data.sources.0: 3 is not allowed; expected a section with fields among source, path",
    "data: {sources: [{path: x, colour: 1}]}": "data.sources.0.colour: unknown field; allowed here: source, path",
    "trajectory: {timesteps: [[{a: 1}]]}": r"trajectory.timesteps.0.0: {'a': 1} is not allowed \(Input should be",
    "model: {lora: [{a: 1}]}": r"model.lora.0: {'a': 1} is not allowed \(Input should be a valid string\)",
    "train: {" + ", ".join(f"a{i}: 1" for i in range(40)) + "}": "train.a7: unknown field; .*; 32 more$",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:40])
def test_a_mistake_is_one_short_line(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=MISTAKES[text]) as caught:
        load_config(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2500 + len(str(path))


@pytest.mark.parametrize("text", ["a\0b", "a\ud83d"])
@pytest.mark.parametrize("field", ["run.dir", "model.path", "model.lora", "model.architecture", "data.image_column"])
def test_a_text_that_no_file_can_hold_is_refused_by_its_field(field, text):
    section, name = field.split(".")
    value = {"lora": [text], "architecture": {"x": [text]}, "dir": Path(text)}.get(name, text)
    values = {**MINIMAL, section: {name: value}}
    with pytest.raises(UserError, match=rf"^{field}: .* is not allowed \(a text holds .* character") as caught:
        build_config(values)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.dir=caf\udce9", r"override 'run.dir=caf\\udce9': not a YAML value \(unacceptable character"),
        ("tr\nain.lr=1", r"override 'tr\\nain.lr=1': expected field.path=value"),
        ("train..lr=1", "override 'train..lr=1': expected field.path=value"),
        (f"{'a.' * 5000}b=1", "expected field.path=value"),
        (f"train.lr={'[' * 1000}", "not a YAML value"),
        ("train.lr=!!bool banana", "not a YAML value .*'banana' is no bool"),
        ("train.lr=&a [*a]", "not a YAML value .*holds itself"),
        (f"train.lr={'x' * 10_000}", "train.lr: 'xxx"),
        ("tr\udce9in=1", r"'tr\\udce9in' is not allowed"),
    ],
)
def test_an_odd_override_is_one_short_line(tmp_path, override, message):
    (tmp_path / "recipe.yaml").write_text(json.dumps(MINIMAL))
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path / "recipe.yaml", [override])
    str(caught.value).encode()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_override_changes_no_section_that_an_alias_repeats(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: e2ed2\nrun: {dir: x}\nmodel: {path: x}\nobjective: {l1: &term {weight: 1}, l2: *term}\n")
    objective = load_config(path, ["objective.l1.weight=2"]).objective
    assert (objective.l1.weight, objective.l2.weight) == (2, 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_mangled_recipe_is_read_or_refused_in_one_line(path, tmp_path):
    content, values = path.read_bytes(), yaml.safe_load(path.read_text())
    mangled = tmp_path / "recipe.yaml"

    def read():
        resolved = load_config(mangled).to_yaml()
        mangled.write_text(resolved)
        assert load_config(mangled).to_yaml() == resolved

    def damage(rng):
        changed = yaml.safe_dump(mangled_values(values, rng), sort_keys=False).encode()
        mangled.write_bytes(mangled_bytes(content, rng) if rng.random() < 0.5 else changed)

    assert 0 < share_taken(damage, read, 10) < 1


def test_mangled_overrides_are_read_or_refused_in_one_line(tmp_path):
    path, overrides = FOLDER / "emoji" / "e2ed2.yaml", []
    fields = ["train.lr=1e-5", "data={source: folder, path: x}", "trajectory.timesteps=[[999, 499], [5, 4, 3, 2]]"]
    fields += ["model.architecture={a: [1, 2], b: {c: null}}", "objective.energy={weight: 2, beta: 0.5}", "run.dir=x"]

    def damage(rng):
        override = rng.choice(fields)
        if rng.random() < 0.7:
            override = mangled_bytes(override.encode(), rng).decode(errors="surrogateescape")
        else:
            override = f"{override.partition('=')[0]}={yaml.safe_dump(rng.choice(ODD))}"
        overrides[:] = [override]

    assert 0 < share_taken(damage, lambda: load_config(path, overrides), 60) < 1
