"""The lists that `keep` samples: what they may hold."""

import pytest

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.data.captions import read_captions
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.training.stages.keep import SHIPPED

LINES = {name: file.read_text(encoding="utf-8").splitlines() for name, file in SHIPPED.items()}
PROTOCOLS = ("emoji", "emoji-heldout", "emoji-anystyle", "noto-heldout", "noto-validation", "lineart-heldout",
             "lineart-validation")  # fmt: skip


@pytest.mark.parametrize(("name", "count"), [("general", 400), ("emoji", 1000)])
def test_all_lines_differ_and_are_read_as_they_stand(name, count):
    lines = LINES[name]
    assert len(lines) == count and len({line.lower() for line in lines}) == count
    assert all(line == " ".join(line.split()) and line.isprintable() for line in lines)
    assert list(read_captions(SHIPPED[name], "keep")) == lines


def test_general_prompts_are_of_1_to_25_words():
    lengths = [len(line.split()) for line in LINES["general"]]
    assert min(lengths) >= 1 and max(lengths) <= 25
    assert sum(length <= 3 for length in lengths) >= 400 // 3


@pytest.mark.parametrize("kept", SHIPPED)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_none_is_a_prompt_that_a_model_is_measured_on(name, kept):
    asked = {prompt.lower() for prompt in read_protocol(name).load(name, None, None).prompts}
    assert len(asked) > 100 and not asked & {line.lower() for line in LINES[kept]}
