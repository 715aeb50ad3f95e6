"""Prompts to embeddings: what the pipeline computes, once per prompt."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2ed2.models import text
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.text import cached_prompt_embeds, encode_prompts, minilm_folder, token_embeds

PROMPTS = ["", "Red Apple ", "sun behind large cloud, twemoji style"]


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    return AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()


@pytest.fixture
def pipeline(tiny_model, encoder):
    """The tiny model with the true MiniLM."""
    pipeline = load_pipeline(tiny_model)[0]
    pipeline.register_modules(tokenizer=encoder[0], text_encoder=encoder[1])
    return pipeline


def test_embeddings_are_those_of_each_prompt_alone(pipeline, encoder):
    tokenizer, model = encoder
    together = encode_prompts(PROMPTS, pipeline, batch_size=2)
    assert together.embeds.shape[:2] == together.mask.shape == (3, len(tokenizer(PROMPTS[2]).input_ids))
    for i, prompt in enumerate(["", "red apple", PROMPTS[2]]):
        tokens = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            alone = model(tokens.input_ids, attention_mask=tokens.attention_mask)[0][0]
        assert int(together.mask[i].sum()) == len(alone)
        assert torch.allclose(together.embeds[i, : len(alone)], alone, atol=1e-5)


def test_they_are_minilm_s_own_to_the_last_bit(pipeline, encoder):
    embeds, mask = token_embeds(PROMPTS, *encoder)
    cond = encode_prompts(PROMPTS, pipeline)
    assert torch.equal(cond.embeds, embeds) and torch.equal(cond.mask, mask)


def test_a_long_prompt_is_cut_at_the_limit(pipeline):
    assert encode_prompts(["apple " * 50], pipeline, 8).mask.tolist() == [[1] * 8]


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"embeds": torch.zeros(2, 4, 32)},  # of another number of prompts
        {"embeds": torch.zeros(3, 4, 32), "mask": torch.ones(3, 5)},
        {"embeds": torch.zeros(3, 4, 32), "another": torch.ones(3, 5)},
    ],
)
def test_what_does_not_fit_in_the_cache_is_encoded_again(pipeline, tmp_path, monkeypatch, stored):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    first = cached_prompt_embeds(PROMPTS, pipeline)
    (file,) = tmp_path.glob("prompts-*")
    save_file(stored, file)
    assert torch.equal(cached_prompt_embeds(PROMPTS, pipeline).embeds, first.embeds)
    assert load_file(file)["embeds"].shape == first.embeds.shape


def test_the_cache_returns_the_same_and_does_not_encode_again(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    first = cached_prompt_embeds(PROMPTS, pipeline)
    monkeypatch.setattr(text, "encode_prompts", lambda *a, **k: pytest.fail("encoded again"))
    again = cached_prompt_embeds(PROMPTS, pipeline)
    assert torch.equal(first.embeds, again.embeds) and torch.equal(first.mask, again.mask)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        cached_prompt_embeds(["another"], pipeline)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        cached_prompt_embeds(PROMPTS, pipeline, 8)
