"""Batches of conditions: which rows, how long, how often."""

import torch

from e2ed2.models.prompt_embeds import PromptEmbeds, concatenate

EMBEDS = torch.arange(3 * 4).view(3, 4, 1).float()
ROWS = torch.tensor([1, 0, 1])


def test_select_cuts_to_the_longest_prompt_and_repeat_keeps_batches_together():
    cond = PromptEmbeds(EMBEDS, torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]))
    short = cond.select(ROWS)
    assert short.embeds.shape == (3, 2, 1) and short.mask.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert torch.equal(short.repeat(2).embeds, torch.cat([short.embeds, short.embeds]))


def test_pooled_and_micro_follow_their_rows_and_without_a_mask_nothing_is_cut():
    pooled, micro = torch.arange(6.0).view(3, 2), torch.arange(18.0).view(3, 6)
    cond = PromptEmbeds(EMBEDS, None, pooled, micro)
    twice = cond.select(ROWS).repeat(2).to(torch.device("cpu"))
    assert twice.mask is None and torch.equal(twice.embeds, EMBEDS[[1, 0, 1, 1, 0, 1]])
    assert torch.equal(twice.pooled, pooled[[1, 0, 1, 1, 0, 1]])
    assert torch.equal(twice.micro, micro[[1, 0, 1, 1, 0, 1]])
    joined = concatenate([cond.select(torch.tensor([0])), cond.select(torch.tensor([1, 2]))])
    assert set(joined.tensors()) == {"embeds", "pooled", "micro"}
    assert all(torch.equal(value, cond.tensors()[name]) for name, value in joined.tensors().items())
