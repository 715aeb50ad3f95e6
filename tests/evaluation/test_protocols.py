"""Protocol files: what ships is valid, what is wrong is named, captions come in the forms the field has."""

import json
import shutil

import pytest

from e2ed2.emoji.protocols import EmojiProtocol
from e2ed2.evaluation.metrics.table import check_counts, metric_named
from e2ed2.evaluation.protocols import FileProtocol, Prompts, protocol_names, read_prompts, read_protocol
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent
from tests.evaluation.tiny import draw_images


@pytest.mark.parametrize("name", protocol_names())
def test_what_ships_is_valid(name):
    protocol = read_protocol(name)
    assert all(metric_named(metric) for metric in protocol.metrics)
    if isinstance(protocol, FileProtocol):
        with pytest.raises(UserError, match=f"--data: protocol {name} needs"):
            protocol.load(name, None, None, silent)


def test_coco30k_is_what_the_field_measures():
    protocol = read_protocol("coco30k")
    assert (protocol.prompts.num, protocol.reference.num_images, protocol.images.size) == (30_000, 40_504, 256)
    assert (protocol.images.resample, protocol.networks.clip_prefix) == ("lanczos", "A photo depicts ")


def test_emoji_protocols_are_the_same_as_ever():
    sizes = {name: (p.emoji.split, p.samples_per_prompt, p.num_images)
             for name in protocol_names() if isinstance(p := read_protocol(name), EmojiProtocol)}  # fmt: skip
    assert sizes == {
        "emoji": ("train", 2, 1024), "emoji-heldout": ("heldout", 2, 808), "emoji-anystyle": ("train", 4, 512),
        "emoji-unseen": ("unseen", 2, 608), "emoji-validation": ("validation", 4, 400),
        "noto-heldout": ("heldout", 2, 704), "noto-validation": ("validation", 2, 384),
        "lineart-heldout": ("heldout", 2, 692), "lineart-validation": ("validation", 2, 382),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"promptz": {}}, "promptz: Extra inputs"),
        ({"images": {"size": 0}}, "images.size: .*found 0"),
        ({"images": {"resample": "nearest"}}, "images.resample: .*found 'nearest'"),
        ({"metrics": []}, "metrics: "),
    ],
)
def test_a_mistake_is_named(protocol, parts, message):
    with pytest.raises(UserError, match=message):
        read_protocol(str(protocol(**parts)))


def test_unknown_names_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="protocol 'coco' is unknown: choose coco10k-512, coco30k, emoji"):
        read_protocol("coco")
    with pytest.raises(UserError, match="none.yaml: No such file or directory; see .* for examples"):
        read_protocol(str(tmp_path / "none.yaml"))


def test_paths_are_beside_the_file_or_under_data(protocol, tmp_path):
    path = str(protocol())
    beside = read_protocol(path).load(path, None, None, silent)
    assert beside.real["reference"].images.paths[0].parent == tmp_path / "real"
    shutil.copytree(tmp_path / "real", tmp_path / "data" / "real")
    shutil.copy(tmp_path / "captions.txt", tmp_path / "data")
    under = read_protocol(path).load(path, None, tmp_path / "data", silent)
    assert under.real["reference"].images.paths[0].parent == tmp_path / "data" / "real"


def test_captions_in_every_form(tmp_path):
    asked = Prompts(path="x", num=3)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one", "two", "three")))
    (tmp_path / "a.csv").write_text("file_name,text\n1.png,one\n2.png,two\n3.png,three\n")
    (tmp_path / "a.json").write_text(json.dumps({i: {"prompt": t} for i, t in enumerate(("one", "two", "three"))}))
    coco = [(9, 1, "three"), (4, 7, "no"), (4, 5, "one "), (6, 8, "two\n")]
    rows = [{"image_id": image, "id": number, "caption": caption} for image, number, caption in coco]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": rows}))
    for name in ("a.txt", "a.jsonl", "a.csv", "a.json", "coco.json"):
        captions = read_prompts(tmp_path / name, asked)
        assert captions == (["one", "two", "three"]), name
    pairs = draw_images(tmp_path / "pairs", 3)
    for i, text in enumerate(["one", "two", "three"]):
        (pairs / f"{i:04d}.txt").write_text(text)
    assert read_prompts(pairs, asked) == ["one", "two", "three"]


def test_a_draw_is_fixed(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(50)))
    first = read_prompts(tmp_path / "a.txt", Prompts(path="x", num=10, draw_seed=1))
    assert first == read_prompts(tmp_path / "a.txt", Prompts(path="x", num=10, draw_seed=1))
    assert len(set(first)) == 10 and first != read_prompts(tmp_path / "a.txt", Prompts(path="x", num=10))


def test_captions_that_do_not_fit(tmp_path):
    asked = Prompts(path="x", num=3)
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="few.txt: 2 captions, but the protocol asks 3"):
        read_prompts(tmp_path / "few.txt", asked)
    (tmp_path / "empty.txt").write_text("one\n\nthree\n")
    with pytest.raises(UserError, match="empty.txt: caption 2 is empty"):
        read_prompts(tmp_path / "empty.txt", asked)
    with pytest.raises(UserError, match="prompts .*none.csv: No such file or directory; give .txt lines"):
        read_prompts(tmp_path / "none.csv", asked)
    pairs = draw_images(tmp_path / "pairs", 3)
    (pairs / "0000.txt").write_text("one")
    with pytest.raises(UserError, match="0001.png: no caption: 0001.txt is missing: every image needs a caption"):
        read_prompts(pairs, asked)
    (pairs / "metadata.jsonl").write_text('{"file_name": "0000.png", "text": "one"}\n')
    with pytest.raises(UserError, match="prompts .*0001.png: no row in metadata.jsonl: every image needs a caption"):
        read_prompts(pairs, asked)
    (pairs / "metadata.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UserError, match="0000.png: no row in metadata.jsonl: every image needs a .*`file_name`"):
        read_prompts(pairs, asked)


def test_captions_go_with_their_images(tmp_path):
    asked, folder = Prompts(path="x", num=3), draw_images(tmp_path / "pairs", 3)
    for old, new in (("0000.png", "1.JPG"), ("0001.png", "1.png"), ("0002.png", "2.PNG")):
        (folder / old).rename(folder / new)
    (folder / "1.txt").write_text("one")
    with pytest.raises(UserError, match="2.txt is missing"):
        read_prompts(folder, asked)
    (folder / "2.txt").write_text("two")
    assert read_prompts(folder, asked) == ["one", "one", "two"], "an image each, two of them of one caption"
    rows = [("2.PNG", "c"), ("1.JPG", "a"), ("1.png", "b"), ("1.png", "a second caption")]
    lines = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows]
    (folder / "metadata.jsonl").write_text("".join(lines))
    assert read_prompts(folder, asked) == ["a", "b", "c"], "by the images' paths, whatever the order of the rows"


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x85"])
def test_only_a_newline_ends_a_caption(tmp_path, separator):
    captions = [f"one{separator}caption", "two"]
    (tmp_path / "a.txt").write_text("\n".join(captions) + "\n")
    lines = [json.dumps({"text": caption}, ensure_ascii=False) + "\n" for caption in captions]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    for name in ("a.txt", "a.jsonl"):
        assert read_prompts(tmp_path / name, Prompts(path="x", num=2)) == captions


def test_only_the_sets_that_a_metric_reads_count():
    """Five training images are too few for authenticity alone; eight real ones do not matter to the CLIP score."""
    few = ["clip_score", "spread", "kid"]
    assert check_counts(few, {"samples": 24, "reference": 40, "training": 5}, 2) == []
    with pytest.raises(UserError, match="kid needs at least 10 images, but there are 8 .reference."):
        check_counts(few, {"samples": 24, "reference": 8, "training": 40}, 2)
    assert check_counts(["clip_score", "spread"], {"samples": 24, "reference": 8, "training": 5}, 2) == []
    with pytest.raises(UserError, match="authenticity needs at least 10 images, but there are 5 .training."):
        check_counts(["authenticity"], {"samples": 24, "reference": 40, "training": 5}, 2)
