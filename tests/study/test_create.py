"""Setting up: what the folder holds, that pictures tell nothing, and what is refused."""

import csv
import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from argon2 import PasswordHasher
from PIL import Image

from e2ed2 import emoji
from e2ed2.sampling.folder import MANIFEST_FILE
from e2ed2.study.create import _folder_name, create_study
from e2ed2.study.folder import PICTURES, read_study
from e2ed2.study.groups import raters_by_group
from e2ed2.system.errors import UserError
from tests.study.conftest import MODELS, PROMPTS, write_images

ONE = {"rater": 1}
EMOJI = Path(emoji.__file__).parent / "assets"


def content(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text())


def test_what_the_folder_holds(folder):
    out, password = folder
    study, rows = content(out), list(csv.DictReader((out / "links.csv").read_text().splitlines()))
    assert study["models"] == list(MODELS) and sorted(p["text"] for p in study["prompts"]) == sorted(PROMPTS)
    assert [row["rater"] for row in rows] == ["rater-1", "rater-2", "rater-3"]
    assert [row["group"] for row in rows] == ["artist", "artist", "lay"]
    assert all(row["link"].startswith("/r/") for row in rows) and len({row["link"] for row in rows}) == 3
    secret = json.loads((out / "secret.json").read_text())
    assert PasswordHasher().verify(secret["password_hash"], password) and "argon2id" in secret["password_hash"]
    assert stat.S_IMODE((out / "secret.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert not any(password in path.read_text() for path in out.glob("*.*"))


def test_both_pictures_of_a_pair_are_of_one_prompt_and_seed(folder, evaluated):
    out, _ = folder
    study = content(out)
    for pair in study["pairs"]:
        if pair["kind"] == "check":
            continue
        i = PROMPTS.index(study["prompts"][pair["prompt"]]["text"])
        for file, source in zip(pair["files"], evaluated, strict=True):
            shown, made = (np.asarray(Image.open(p)) for p in (out / PICTURES / file, source / f"images/{i}-0.png"))
            assert np.array_equal(shown, made)


def test_pictures_tell_nothing_of_their_model(folder):
    """One size in pixels and bytes within a prompt, random names, no metadata; as made they differ in length."""
    out, _ = folder
    for pair in content(out)["pairs"]:
        files = [out / PICTURES / name for name in pair["files"]]
        images = [Image.open(file) for file in files]
        assert {image.size for image in images} == {(24, 24)} and {image.mode for image in images} == {"RGB"}
        assert len({file.stat().st_size for file in files}) == 1
        assert all(not image.info and not image.getexif() for image in images)
        assert all(re.fullmatch(r"[0-9a-f]{32}\.png", file.name) for file in files)
    names = {name for pair in content(out)["pairs"] for name in pair["files"]}
    assert names == {path.name for path in (out / PICTURES).iterdir()}


def test_a_check_is_a_picture_and_the_same_spoiled(folder):
    out, _ = folder
    study = content(out)
    checks = [pair for pair in study["pairs"] if pair["kind"] == "check"]
    assert checks
    for pair in checks:
        whole, spoiled = (np.asarray(Image.open(out / PICTURES / name)).astype(float) for name in pair["files"])
        assert pair["models"][0] == pair["models"][1] and np.abs(whole - spoiled).mean() > 30


def test_the_seed_fixes_the_design_but_no_secret(evaluated, tmp_path):
    models = [str(path) for path in evaluated]
    passwords = [create_study(models, tmp_path / name, groups={"a": 4}, seed=3) for name in ("one", "two")]
    one, two = (content(tmp_path / name) for name in ("one", "two"))
    assert one["raters"] == two["raters"] and one["prompts"] == two["prompts"]
    assert [p["files"] for p in one["pairs"]] != [p["files"] for p in two["pairs"]] and one["id"] != two["id"]
    assert passwords[0] != passwords[1]
    assert (tmp_path / "one/links.csv").read_text() != (tmp_path / "two/links.csv").read_text()


def test_images_of_different_sizes_are_brought_to_one(tmp_path):
    one, two = (write_images(tmp_path / name, 30) for name in ("one", "two"))
    for path in (two / "images").iterdir():
        Image.open(path).resize((60, 48)).save(path)
    create_study([str(one), str(two)], tmp_path / "study", groups=ONE)
    assert {Image.open(path).size for path in (tmp_path / "study" / PICTURES).iterdir()} == {(24, 24)}


def test_seeds_are_matched(tmp_path):
    one = write_images(tmp_path / "one", 30, seeds=(0, 1, 2))
    two = write_images(tmp_path / "two", 30, seeds=(7, 2, 1))
    create_study([str(one), str(two)], tmp_path / "study", groups=ONE)
    pair = content(tmp_path / "study")["pairs"][0]
    images = [np.asarray(Image.open(tmp_path / "study" / PICTURES / name)) for name in pair["files"]]
    assert np.array_equal(*images)  # of the same level and seed: the same picture


def test_categories_and_num_prompts(evaluated, tmp_path):
    table = tmp_path / "kinds.csv"
    table.write_text("prompt,category\n" + "".join(f"prompt {i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(9)))
    create_study([str(p) for p in evaluated], tmp_path / "s", groups=ONE, num_prompts=6, categories=table)
    rows = content(tmp_path / "s")["prompts"]
    assert len(rows) == 6
    assert all(r["category"] == ("" if "<" in r["text"] else "odd" if int(r["text"][-1]) % 2 else "even") for r in rows)


@pytest.mark.slow
def test_models_are_sampled_where_no_folder_is_given(tiny_bundle, tmp_path, num_sampled):
    protocol = tmp_path / "few.yaml"
    protocol.write_text((EMOJI / "emoji.yaml").read_text().replace("num_images: 1024", "num_images: 20"))
    models = ["emoji-lcm", "emoji-e2ed2"]
    create_study(models, tmp_path / "s", groups=ONE, num_prompts=5, protocol=str(protocol))
    assert sum(num_sampled) == 10 and read_study(tmp_path / "s").models == ["emoji-lcm", "emoji-e2ed2"]


def other_prompts(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3, [*PROMPTS[1:], "another"])


def other_seeds(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3, seeds=(4,))


def broken_image(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3)
    (two / "images" / "3-0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")


def lost_image(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3)
    (two / "images" / "3-0.png").unlink()


def foreign_manifest(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3)
    (two / MANIFEST_FILE).write_text('{"made_by": "else", "images": []}')


def watermarked(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3)
    values = json.loads((two / MANIFEST_FILE).read_text())
    (two / MANIFEST_FILE).write_text(json.dumps(values | {"labels": ["metadata", "c2pa", "watermark from 16 px"]}))


def a_model(one: Path, two: Path, out: Path) -> None:
    pass


def a_study_there(one: Path, two: Path, out: Path) -> None:
    write_images(two, 3)
    out.mkdir()
    (out / "study.json").write_text("mine")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_prompts, "1 prompts of one are not in two, as 'prompt 0'"),
        (other_seeds, "no image of one seed from all models"),
        (broken_image, "3-0.png: cannot be decoded"),
        (lost_image, "3-0.png: cannot be decoded"),
        (foreign_manifest, "manifest.json is not from e2ed2"),
        (watermarked, "two: a watermark is in its images and would be judged too; make them with --no-label"),
        (a_study_there, "holds a study already"),
        (a_model, "two: no folder of samples, as"),
    ],
)
def test_what_is_refused_in_one_line(spoil, said, tmp_path):
    one, two, out = write_images(tmp_path / "one", 3), tmp_path / "two", tmp_path / "study"
    spoil(one, two, out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        create_study([str(one), str(two)], out, groups=ONE)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before and not (out / "secret.json").exists()


def test_numbers_out_of_range(evaluated, tmp_path):
    models = [str(path) for path in evaluated]
    for models_, settings, said in (
        (models, {"num_prompts": 3, "groups": ONE}, "--num-prompts 3: must be 4"),
        (models, {"num_prompts": 11, "groups": ONE}, "the models share 10 prompts"),
        (models, {"groups": {"rater": 0}}, "--num-raters 0"),
        (models[:1], {"groups": ONE}, "1 models: compare 2"),
        ([models[0]] * 2, {"groups": ONE}, "given twice"),
    ):
        with pytest.raises(UserError, match=said):
            create_study(models_, tmp_path / "s", **settings)


def test_a_model_that_is_none_is_met_before_anything_is_loaded(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("e2ed2.study.create.load_model", loaded.append)
    with pytest.raises(UserError, match="emoji-nosuch"):
        create_study(["sdxl-turbo", "emoji-nosuch"], tmp_path / "s", groups=ONE)
    assert loaded == []


@pytest.mark.parametrize("name", ["../model", "/a/model", "..", "a\\..\\model", "org/model"])
def test_samples_of_a_model_stay_in_the_studys_folder(name, tmp_path):
    assert (tmp_path / _folder_name(name)).resolve().parent == tmp_path.resolve()


def test_groups():
    assert raters_by_group([], None) == {"rater": 10} and raters_by_group([], 4) == {"rater": 4}
    assert raters_by_group(["artist=3", "lay=2"], 5) == {"artist": 3, "lay": 2}
    for asked, number in ((["artist"], None), (["a=1", "a=2"], None), (["a=0"], None), (["a=2"], 3)):
        with pytest.raises(UserError, match="--group|--num-raters"):
            raters_by_group(asked, number)


def test_a_damaged_folder_is_said(folder):
    out, _ = folder
    next((out / PICTURES).iterdir()).unlink()
    with pytest.raises(UserError, match="1 pictures are missing"):
        read_study(out)
    values = content(out)
    (out / "study.json").write_text(json.dumps(values | {"version": 9}))
    with pytest.raises(UserError, match="of version 9, this e2ed2 reads 1"):
        read_study(out)
    values["raters"][0]["blocks"][0]["screens"][0][0] = 10**6
    (out / "study.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="names what is not there"):
        read_study(out)
