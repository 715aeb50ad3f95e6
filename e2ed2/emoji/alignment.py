"""How well images fit their captions: a small contrastive head over two frozen encoders.

CLIP (Radford et al. 2021, arXiv:2103.00020) in miniature: a linear map of EfficientNet-lite0 features and one
of MiniLM caption embeddings meet in a space of 192 dimensions, trained on the emoji training split. It only
ever measures: no loss uses it. `weights/alignment/train.py` trained it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from e2ed2.evaluation.features.efficientnet import FEATURE_DIM
from e2ed2.evaluation.metrics.intervals import Estimate, mean_estimate
from e2ed2.models.text import MINILM_SHA256, minilm_folder, token_embeds
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, file_sha256
from e2ed2.system.paths import cache_dir

CAPTION_DIM = 384
SHARED_DIM = 192
HEAD_FILE = Path(__file__).parents[1] / "weights" / "alignment" / "alignment.safetensors"
_CAPTION_CHUNK = 256


class AlignmentHead(nn.Module):
    """Two linear maps to a shared unit sphere; the score of an image and a caption is their cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(FEATURE_DIM, SHARED_DIM)
        self.caption = nn.Linear(CAPTION_DIM, SHARED_DIM)

    def embed_images(self, features: Tensor) -> Tensor:
        """EfficientNet features [N, 1280] -> unit vectors [N, 192]."""
        return F.normalize(self.image(features), dim=1)

    def embed_captions(self, captions: Tensor) -> Tensor:
        """MiniLM embeddings [N, 384] -> unit vectors [N, 192]."""
        return F.normalize(self.caption(captions), dim=1)


def alignment(features: Tensor, prompts: list[str]) -> Estimate:
    """Mean over the images of the cosine between image and caption, in [-1, 1].

    The interval leaves out each caption with all its samples, once. The head's card says what real images
    reach with their own and with any caption: the score has no meaning apart from these, nor beyond emoji.

    Args:
        features: EfficientNet features of the images, [N, 1280].
        prompts: the caption of each.
    """
    head = load_alignment_head()
    captions = head.embed_captions(caption_embeddings(prompts))
    cosines = (head.embed_images(features.float()) * captions).sum(1)
    return mean_estimate(cosines, prompts)


def load_alignment_head() -> AlignmentHead:
    """The shipped head, its file verified against its card."""
    card = json.loads(HEAD_FILE.with_suffix(".json").read_text())
    if not HEAD_FILE.is_file() or file_sha256(HEAD_FILE) != card["sha256"]:
        raise UserError(f"{HEAD_FILE}: is not the file of its card ({card['sha256']}): reinstall e2ed2")
    head = AlignmentHead()
    head.load_state_dict(load_file(HEAD_FILE))
    return head.eval().requires_grad_(False)


def caption_embeddings(captions: list[str]) -> Tensor:
    """Mean of MiniLM's token embeddings over each caption, unit length, [N, 384]; cached by the captions.

    As sentence-transformers pools this model (Reimers & Gurevych 2019, arXiv:1908.10084). Repeated captions are
    embedded once.
    """
    row = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    key = hashlib.sha256(json.dumps([MINILM_SHA256, *row]).encode()).hexdigest()
    rows = cached_rows(f"captions-{key}", lambda: torch.cat(list(_embed(list(row)))))
    return rows[torch.tensor([row[caption] for caption in captions])]


def cached_rows(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor kept in the cache folder under this name, else computed and kept."""
    path = cache_dir() / "evaluation" / f"{name}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):  # absent, or damaged: computed anew
        return load_file(path)["rows"]
    rows = compute()
    with atomic_file(path) as temporary:
        save_file({"rows": rows.contiguous()}, temporary)
    return rows


def _embed(captions: list[str]) -> Iterator[Tensor]:
    from transformers import AutoModel, AutoTokenizer

    folder = minilm_folder()
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for start in range(0, len(captions), _CAPTION_CHUNK):
        chunk = captions[start : start + _CAPTION_CHUNK]
        embeds, mask = token_embeds(chunk, tokenizer, encoder)
        yield F.normalize((embeds * mask[..., None]).sum(1), dim=1)
