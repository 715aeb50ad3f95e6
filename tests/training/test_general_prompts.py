"""The list that `keep` samples by default: what it may hold."""

import pytest

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.data.captions import read_captions
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.training.stages.keep import GENERAL_PROMPTS

LINES = GENERAL_PROMPTS.read_text(encoding="ascii").splitlines()
PROTOCOLS = ("emoji", "emoji-heldout", "emoji-anystyle", "noto-heldout", "noto-validation", "lineart-heldout",
             "lineart-validation")  # fmt: skip


def test_there_are_400_different_lines_of_1_to_25_words():
    assert len(LINES) == 400 and len({line.lower() for line in LINES}) == 400
    lengths = [len(line.split()) for line in LINES]
    assert min(lengths) >= 1 and max(lengths) <= 25
    assert sum(length <= 3 for length in lengths) >= 400 // 3
    assert all(line == " ".join(line.split()) and line.isprintable() for line in LINES)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_none_is_a_prompt_that_a_model_is_measured_on(name):
    asked = {prompt.lower() for prompt in read_protocol(name).load(name, None, None).prompts}
    assert len(asked) > 100 and not asked & {line.lower() for line in LINES}


def test_they_are_read_as_they_stand():
    assert list(read_captions(GENERAL_PROMPTS, "keep")) == LINES
