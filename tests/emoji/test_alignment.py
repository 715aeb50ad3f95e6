"""The shipped head: its file, its card, that it tells captions apart, and the parts that trained it."""

import json

import pytest
import torch
import torch.nn.functional as F

from e2ed2.emoji import alignment as align
from e2ed2.emoji.dataset import STYLES, EmojiSet, load_emoji, styled_caption
from e2ed2.evaluation.features.efficientnet import EfficientNetFeatures
from e2ed2.system.errors import UserError
from e2ed2.weights.alignment import train as training


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, request, tmp_path):
    """No leftovers of other runs; the one test that needs the rendered emoji keeps the usual cache."""
    if "heldout" not in request.node.name:
        monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))


def test_the_file_is_small_and_that_of_its_card():
    card = json.loads(align.HEAD_FILE.with_suffix(".json").read_text())
    assert align.HEAD_FILE.stat().st_size < 2e6
    assert align.file_sha256(align.HEAD_FILE) == card["sha256"]
    assert card["heldout"]["styled_top1"] > 20 / card["heldout"]["styled_num_captions"]
    assert card["heldout"]["style_accuracy"] > 0.95


def test_another_file_is_refused(monkeypatch, tmp_path):
    copy = tmp_path / "alignment.safetensors"
    copy.write_bytes(align.HEAD_FILE.read_bytes()[:-4] + b"abcd")
    copy.with_suffix(".json").write_text(align.HEAD_FILE.with_suffix(".json").read_text())
    monkeypatch.setattr(align, "HEAD_FILE", copy)
    with pytest.raises(UserError, match="is not the file of its card"):
        align.load_alignment_head()


def test_heldout_images_fit_their_captions_best():
    """Unseen emoji: the own caption beats a shuffled one and the other style's."""
    data = load_emoji("heldout")
    rows = list(range(0, len(data), 17))
    features = EfficientNetFeatures()([*data.images[rows]])
    captions = [data.captions[i] for i in rows]
    own = align.alignment(features, captions)
    other_style = [styled_caption(data.names[i], STYLES[data.styles[i] == STYLES[0]]) for i in rows]
    assert own.low > align.alignment(features, captions[1:] + captions[:1]).high
    assert own.value > align.alignment(features, other_style).value + 0.05


def test_caption_embeddings_are_unit_and_independent_of_their_company():
    alone = align.caption_embeddings(["red apple"])
    together = align.caption_embeddings(["a very long caption about a man in a suit levitating", "red apple"])
    assert together.shape == (2, 384)
    assert together.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (alone[0] - together[1]).abs().max() < 1e-5


def test_info_nce_by_hand():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    expected = torch.stack([-F.log_softmax(logits, 1).diag().mean(), -F.log_softmax(logits, 0).diag().mean()]).sum()
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert torch.allclose(training._info_nce(logits, nothing), expected)
    ignored = torch.tensor([[True, False], [True, True]])  # image 1 and caption 0; the diagonal always stays
    kept = torch.tensor([[2.0, 0.0], [-torch.inf, 3.0]])
    expected = -F.log_softmax(kept, 1).diag().mean() - F.log_softmax(kept, 0).diag().mean()
    assert torch.allclose(training._info_nce(logits, ignored), expected)


def test_folding_the_scaling_changes_no_score():
    torch.manual_seed(0)
    head, features, captions = align.AlignmentHead(), torch.rand(5, 1280), F.normalize(torch.randn(5, 384), dim=1)
    mean, std = torch.rand(1280), torch.rand(1280) + 0.5
    with torch.no_grad():
        expected = head.embed_images((features - mean) / std) @ head.embed_captions(captions * 384**0.5).T
        folded = training._fold_scaling(head, mean, std)
        assert (folded.embed_images(features) @ folded.embed_captions(captions).T - expected).abs().max() < 1e-5


def test_fitting_learns_toy_pairs_and_repeats_exactly(monkeypatch):
    """Captions whose embedding is a fixed map of their image's features; the second run equals the first."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 64, 1280, generator=generator)
    embeddings = F.normalize(features[0] @ torch.randn(1280, 384, generator=generator), dim=1)
    embeddings = F.normalize(embeddings - embeddings.mean(0), dim=1)
    monkeypatch.setattr(training, "caption_embeddings", lambda captions: embeddings)
    monkeypatch.setattr(training, "BATCH_SIZE", 32)
    captions = [str(i) for i in range(64)]
    data = EmojiSet(torch.zeros(64, 3, 8, 8), captions, captions, ["twemoji", "openmoji"] * 32, captions)
    heads = [training._fit(features, data, torch.Generator().manual_seed(1)) for _ in range(2)]
    cosines = heads[0].embed_images(features[0]) @ heads[0].embed_captions(embeddings).T
    assert (cosines.argmax(1) == torch.arange(64)).float().mean() > 0.9
    assert torch.equal(heads[0].image.weight, heads[1].image.weight)


def test_altered_copies_keep_size_and_white_ground():
    images = torch.full((6, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, 24:40, 24:40] = 0
    altered = training._augment(images, torch.Generator().manual_seed(0))
    assert altered.shape == images.shape and altered.dtype == torch.uint8
    assert not torch.equal(altered, images)
    assert altered[:, :, :4, :4].float().mean() > 200  # what moves in at the edge is white


def test_a_damaged_cache_entry_is_measured_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    rows = torch.arange(6.0).view(2, 3)
    align.cached_rows("some", lambda: rows)
    (tmp_path / "evaluation" / "some.safetensors").write_bytes(b"half a fi")
    assert torch.equal(align.cached_rows("some", lambda: rows + 1), rows + 1)
    assert torch.equal(align.cached_rows("some", lambda: rows), rows + 1)
    assert [p.name for p in (tmp_path / "evaluation").iterdir()] == ["some.safetensors"]
