"""Shipped recipes and suites are found by name from any folder; a file of the user's own comes first."""

from pathlib import Path

import pytest

from e2ed2.ablation.suite import load_suite
from e2ed2.recipe.load import load_config
from e2ed2.recipe.shipped import FOLDERS, recipe_file, shipped_recipes
from e2ed2.system.errors import UserError

SHIPPED = next(folder for folder in FOLDERS if folder.is_dir())


@pytest.mark.parametrize("given", ["emoji/e2ed2", "emoji/e2ed2.yaml", "recipes/emoji/e2ed2", "./emoji/e2ed2.yaml"])
def test_a_name_is_the_shipped_file_from_any_folder(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file(Path(given)) == SHIPPED / "emoji" / "e2ed2.yaml"
    assert load_config(Path(given), ["model.path=x"]) == load_config(SHIPPED / "emoji" / "e2ed2.yaml", ["model.path=x"])


def test_every_shipped_file_has_a_name_and_suites_find_their_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(shipped_recipes()) == len([*SHIPPED.rglob("*.yaml")]) > 10
    for name, file in shipped_recipes().items():
        own = {"ablation": "suite", "curation": "pipeline"}.get(name.partition("/")[0], "recipe")
        verb = {"suite": "ablate", "pipeline": "curate"}.get(own, "train")
        assert recipe_file(Path(name), own) == file
        for other in {"recipe", "suite", "pipeline"} - {own}:
            with pytest.raises(UserError, match=f"^{other} {name}: is a {own}: `e2ed2 {verb} {name}`$"):
                recipe_file(Path(name), other)
    assert load_suite(Path("ablation/table2")).recipe.is_file()


def test_a_file_of_that_name_comes_first_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert recipe_file(Path("demo")) == SHIPPED / "demo.yaml"
    Path("demo.yaml").write_text("stage: lcm")
    assert recipe_file(Path("demo.yaml")) == Path("demo.yaml")


@pytest.mark.parametrize("given", ["emoji/e2ed3", "../recipes/demo", "/demo", "recipes", "", "demo.yml", "x" * 5000])
def test_another_name_is_refused_with_those_there_are(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^recipe .*, or one of demo, emoji/autoencoder|^recipe .: Is a directory"):
        load_config(Path(given))
