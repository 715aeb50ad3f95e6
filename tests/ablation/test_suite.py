"""Suites: what they accept, where their rows lie, and what `--quick` makes of them."""

import datetime
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from e2ed2.ablation.run import _config, run_suite
from e2ed2.ablation.suite import folder_name, load_suite
from e2ed2.commands.app import app
from e2ed2.system.errors import UserError
from tests.ablation.conftest import SUITE
from tests.mangle import mangled_bytes, mangled_values, share_taken

SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "ablation").glob("*.yaml"))


@pytest.mark.parametrize("own", [{"train.lr": 1e-5}, {"train": {"lr": 1e-5, "max_train_steps": 9}}])
def test_the_quick_size_counts_after_a_row_s_own_fields(suite_file, tmp_path, own):
    suite_file.write_text(yaml.safe_dump(SUITE | {"rows": {"L2": SUITE["rows"]["L2"] | own}, "baseline": None}))
    assert _config(load_suite(suite_file), "L2", 0, tmp_path).train.lr == 1e-5
    assert _config(load_suite(suite_file, quick=True), "L2", 0, tmp_path).train.lr == 1e-3


def test_the_quick_size_changes_what_it_names_and_keeps_the_rest(suite_file, tmp_path):
    quick = load_suite(suite_file, quick=True)
    assert quick.seeds == [5] and quick.steps == [4, 1]
    train = _config(quick, "L1", 5, tmp_path).train
    assert (train.max_train_steps, train.lr) == (3, 1e-3)
    assert list(quick.rows) == ["start", "L1", "L2"]
    suite_file.write_text(yaml.safe_dump(SUITE | {"quick": {"rows": ["L2"]}}))
    assert load_suite(suite_file, quick=True).rows == {"L2": SUITE["rows"]["L2"]}


@pytest.mark.parametrize(
    ("quick", "message"),
    [
        ({"fields": ["train.lr"]}, r"quick\.fields: "),
        ({"fields": {"run.dir": "mine"}}, r"quick\.fields: run\.dir is set by --out"),
        ({"rows": ["L3"]}, r"quick\.rows: L3, but the rows are start, L1, L2"),
        ({"rows": None}, r"quick\.rows: "),
        ({"rows": [["L2"]]}, r"quick\.rows\.0: "),
        ({"row": ["L2"]}, r"quick\.row: "),
        (None, "has no section 'quick'"),
    ],
)
def test_a_wrong_quick_size_is_one_line(suite_file, quick, message):
    suite_file.write_text(yaml.safe_dump(SUITE | {"quick": quick}, sort_keys=False))
    with pytest.raises(UserError, match=message):
        load_suite(suite_file, quick=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": {}}, "row: "),
        ({"rows": {}}, "rows: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"seeds": [1_000_001]}, "seeds.0: .* 1000000"),
        ({"fields": {"train.seed": 3}}, "fields: train.seed is set by the suite's seeds"),
        ({"rows": {"L2": {"run": {"dir": "mine"}}}}, "rows.L2: run.dir is set by --out"),
        ({"rows": {"..": {}}, "baseline": None}, "rows: '..' cannot be a folder"),
        ({"rows": {"table.md": {}}, "baseline": None}, "rows: 'table.md' cannot be a folder"),
        ({"rows": {"L" * 61: {}}, "baseline": None}, "rows: 'LL+' cannot be a folder"),
        ({"baseline": "L3"}, "baseline: L3, but the rows are start, L1, L2"),
        ({"steps": [51]}, "steps.0: "),
        ({"seeds": [0, 0]}, r"seeds: \[0, 0\], but each can be measured once"),
        ({"rows": ["L2"]}, "rows: "),
        ({"rows": {"a b": {}, "a/b": {}}, "baseline": None}, "rows: a b and a/b would share the folder a-b"),
        ({"rows": {"K=2": {}, "k 2": {}}, "baseline": None}, "rows: K=2 and k 2 would share the folder k-2"),
        ({"rows": {"NUL": {}}, "baseline": None}, "rows: 'NUL' cannot be a folder .*, not as Windows names a device"),
        ({"rows": {"com1.old": {}}, "baseline": None}, "rows: 'com1.old' cannot be a folder"),
        ({"rows": {"Table.md": {}}, "baseline": None}, "rows: 'Table.md' cannot be a folder"),
        ({"rows": {"=": {}}, "baseline": None}, "rows: '=' cannot be a folder"),
        ({"rows": {"a\nb": {}}, "baseline": None}, r"rows: 'a\\nb' cannot be a folder"),
        ({"rows": {"start": {"model": 3}}, "baseline": None}, "rows.start: model: .*, found {'model': 3}"),
        ({"rows": {"L2": {"train.lr": datetime.date(2026, 1, 1)}}}, r"rows.L2.train.lr: .*, found datetime\.date"),
        ({"quick": {"rows": 3}}, "quick.rows: "),
    ],
)
def test_a_wrong_suite_is_one_line(suite_file, change, message):
    suite_file.write_text(yaml.safe_dump(SUITE | change, sort_keys=False))
    with pytest.raises(UserError, match=message) as caught:
        load_suite(suite_file)
    assert "\n" not in str(caught.value)
    assert isinstance(CliRunner().invoke(app, ["ablate", str(suite_file)]).exception, UserError)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_suites_are_valid_in_every_row(path, quick, calls, tmp_path):
    suite = load_suite(path, quick)
    run_suite(suite, tmp_path / "out", say=lambda line: None)
    rows = {config.run.dir.parent.name for config in calls["train"]}
    assert rows == {folder_name(row) for row, fields in suite.rows.items() if set(fields) != {"model"}}


@pytest.mark.parametrize(
    ("row", "folder"),
    [
        ("L2+LPIPS+MMD", "L2-LPIPS-MMD"),
        ("time_grid=learned,K=1..4", "time_grid-learned-K-1..4"),
        ("beta=0.5", "beta-0.5"),
        ("x=-1", "x--1"),
        ("../a, b/c.", "a-b-c"),
        ("été", "t"),
    ],
)
def test_a_row_s_folder_has_a_plain_name(row, folder):
    assert folder_name(row) == folder


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_mangled_suite_is_read_or_refused_in_one_line(path, calls, tmp_path):
    content, values = path.read_bytes(), yaml.safe_load(path.read_text())
    recipe, mangled = (path.parent / values["recipe"]).resolve(), tmp_path / "suite.yaml"

    def read(quick):
        suite = load_suite(mangled, quick=quick)
        assert all(folder_name(row) == folder_name(folder_name(row)) != "" for row in suite.rows)
        suite = suite.model_copy(update={"recipe": recipe})
        for row in list(suite.rows)[:3]:
            _config(suite, row, suite.seeds[0], tmp_path)
        yaml.safe_dump(suite.model_dump(mode="json")).encode()

    def damage(rng):
        changed = yaml.safe_dump(mangled_values(values, rng), sort_keys=False).encode()
        mangled.write_bytes(changed if rng.random() < 0.5 else mangled_bytes(content, rng))

    for quick in (False, True):
        assert 0 < share_taken(damage, partial(read, quick), 15) < 1
