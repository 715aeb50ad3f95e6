"""Two styles that no bundled model knows: counts, splits by base emoji, what a line drawing is, a user's folder."""

import pytest
import torch

from e2ed2.data.decoding import read_image
from e2ed2.data.sources.folder import FolderSource
from e2ed2.emoji.dataset import EmojiSet, base_emoji, is_heldout, load_emoji
from e2ed2.emoji.protocols import EmojiProtocol
from e2ed2.emoji.styles import CAPTIONS, SPLITS, _lines_of, load_style, write_style
from e2ed2.evaluation.protocols import protocol_names, read_protocol
from e2ed2.system.errors import UserError

COUNTS = {
    "noto": {"train": 1103, "validation": 192, "heldout": 352},
    "lineart": {"train": 1090, "validation": 191, "heldout": 346},
}
STYLES = pytest.mark.parametrize("style", COUNTS)


@pytest.fixture(scope="module")
def styles() -> dict[str, dict[str, EmojiSet]]:
    return {style: {split: load_style(style, split) for split in SPLITS} for style in CAPTIONS}


@STYLES
def test_every_emoji_is_in_one_split_under_the_style_s_caption(styles, style):
    found = styles[style]
    assert {split: len(data) for split, data in found.items()} == COUNTS[style]
    ending = {"noto": ", noto style", "lineart": ", line art"}[style]
    for data in found.values():
        assert data.images.shape == (len(data), 3, 64, 64) and data.images.dtype == torch.uint8
        assert data.captions == [name + ending for name in data.names] and set(data.styles) == {style}
        assert len(set(data.keys)) == len(data)


@STYLES
def test_the_variants_of_a_base_emoji_share_a_split(styles, style):
    bases = [{base_emoji(name) for name in data.names} for data in styles[style].values()]
    assert len(set.union(*bases)) == sum(map(len, bases))


@STYLES
def test_what_no_model_has_seen_in_any_style_is_held_out_here_too(styles, style):
    names, all_names = set(styles[style]["heldout"].names), {n for data in styles[style].values() for n in data.names}
    unseen = {name for name in all_names if is_heldout(name)}
    assert unseen < names and 0.3 < len(unseen) / len(names) < 0.7
    assert set(load_emoji("heldout").names) & all_names == unseen


def test_both_styles_split_alike(styles):
    noto, lineart = ({name: split for split, data in styles[style].items() for name in data.names} for style in COUNTS)
    shared = noto.keys() & lineart.keys()
    assert len(shared) > 1500 and all(noto[name] == lineart[name] for name in shared)


def test_a_line_drawing_is_grey_on_white_and_noto_is_not(styles):
    lines, noto = styles["lineart"]["train"].images, styles["noto"]["train"].images
    spread = [(images.amax(1).int() - images.amin(1)).flatten(1).amax(1) for images in (lines, noto)]
    assert spread[0].max() == 0 and spread[1].double().mean() > 100
    for images in (lines, noto):
        assert images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].double().mean() > 200
    ink = 1 - lines.double().mean((1, 2, 3)) / 255
    assert ink.min() >= 0.01 and ink.max() < 0.7


def test_what_colours_a_drawing_is_left_out_and_its_lines_stay(tmp_path):
    groups = {"color": "red", "skin": "tan", "line": "black", "hair": "brown"}
    inside = "".join(f'<g id="{name}"><path d="M0 0" fill="{fill}"/></g>' for name, fill in groups.items())
    (tmp_path / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><g>{inside}</g></svg>')
    lines = _lines_of(tmp_path / "a.svg")
    assert "black" in lines and not any(fill in lines for fill in ("red", "tan", "brown"))


def test_a_split_written_as_a_folder_reads_back(styles, tmp_path):
    data = styles["noto"]["validation"]
    few = EmojiSet(data.images[:3], data.captions[:3], data.keys[:3], data.styles[:3], data.names[:3])
    write_style(few, tmp_path / "folder")
    source = FolderSource(tmp_path / "folder")
    assert [source[i].captions for i in range(len(source))] == [(caption,) for caption in few.captions]
    assert torch.equal(torch.stack([read_image(source[i].image.read_bytes(), 64) for i in range(3)]), few.images)


@pytest.mark.parametrize(("style", "split"), [("twemoji", "train"), ("noto", "test"), ("", "heldout")])
def test_what_there_is_not_is_refused(style, split):
    message = "give noto or lineart, of heldout, validation, train"
    with pytest.raises(UserError, match=f"^emoji style '{style}', split '{split}': {message}$"):
        load_style(style, split)


@STYLES
@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_a_protocol_asks_for_the_captions_of_a_split(styles, style, split):
    name, data = f"{style}-{split}", styles[style][split]
    protocol = read_protocol(name)
    assert name in protocol_names() and isinstance(protocol, EmojiProtocol)
    asked = protocol.load(name, None, None)
    assert len(asked.prompts) == 2 * len(set(asked.prompts)) and set(asked.prompts) <= set(data.captions)
    assert asked.reference == f"{style} {split}, {len(data)} images" and asked.samples_per_prompt == 2
    assert len(asked.real["reference"].rows) == len(data)
