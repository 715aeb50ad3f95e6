"""Prompts to embeddings: what the pipeline computes, once per prompt."""

import pytest
import torch

from e2ed2.models import text
from e2ed2.models.text import PromptEmbeds, cached_prompt_embeds, encode_prompts, minilm_folder

PROMPTS = ["", "Red Apple ", "sun behind large cloud, twemoji style"]


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    return AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()


def test_embeddings_are_those_of_each_prompt_alone(encoder):
    tokenizer, model = encoder
    together = encode_prompts(PROMPTS, tokenizer, model)
    for i, prompt in enumerate(["", "red apple", PROMPTS[2]]):
        tokens = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            alone = model(tokens.input_ids, attention_mask=tokens.attention_mask)[0][0]
        assert int(together.mask[i].sum()) == len(alone)
        assert torch.allclose(together.embeds[i, : len(alone)], alone, atol=1e-5)


def test_the_cache_returns_the_same_and_does_not_encode_again(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    first = cached_prompt_embeds(PROMPTS, *encoder)
    monkeypatch.setattr(text, "encode_prompts", lambda *a, **k: pytest.fail("encoded again"))
    again = cached_prompt_embeds(PROMPTS, *encoder)
    assert torch.equal(first.embeds, again.embeds) and torch.equal(first.mask, again.mask)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        cached_prompt_embeds(["another"], *encoder)


def test_select_cuts_to_the_longest_prompt_and_repeat_keeps_batches_together():
    embeds = torch.arange(3 * 4).view(3, 4, 1).float()
    cond = PromptEmbeds(embeds, torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]))
    short = cond.select(torch.tensor([1, 0, 1]))
    assert short.embeds.shape == (3, 2, 1) and short.mask.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert torch.equal(short.repeat(2).embeds, torch.cat([short.embeds, short.embeds]))
