"""A model ready to sample: ours by the chain it was trained as, a baseline or plain pipeline by its own call."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from e2ed2.models.families import family_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.index import model_sha256
from e2ed2.models.folders.inference import INFERENCE_FILE
from e2ed2.models.folders.pipeline import load_pipeline, load_transformers
from e2ed2.models.text import longest_tokenizer, too_long
from e2ed2.sampling.baselines import Baseline, PipelineSampler, read_baseline
from e2ed2.sampling.generate import Sampler
from e2ed2.system.errors import check_range


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample.

    Attributes:
        sha256: `model_sha256` of its folder. num_parameters: of what denoises.
        has_filter: whether a safety checker lies in its folder, which no sample passes.
        has_classes: whether it draws classes, by their names and numbers.
    """

    name: str
    sha256: str
    num_inference_steps: int
    num_parameters: int
    sampler: Sampler | PipelineSampler
    tokenizer: Any
    max_sequence_length: int
    has_filter: bool = False
    has_classes: bool = False

    def at(self, steps: int) -> "LoadedModel":
        """The same model with another number of steps; one that is sampled by its own call is loaded again.

        Raises:
            UserError: it does not have them.
        """
        if not isinstance(self.sampler, Sampler):
            return load_model(self.name, steps)
        return replace(self, num_inference_steps=steps, sampler=self.sampler.at(steps))

    def too_long(self, prompts: list[str]) -> list[str]:
        """The prompts of which the text encoder sees only the beginning."""
        return too_long(prompts, self.tokenizer, self.max_sequence_length) if self.tokenizer else []


def load_model(model: str, steps: int | None = None) -> LoadedModel:
    """A model on the GPU, or on the CPU where there is none.

    Args:
        model: a model folder, bundled model, baseline or hub id. Ours are sampled by the chain they were trained as,
            plain diffusers pipelines by their own call.
        steps: None for the number that the model was made for.
    Raises:
        UserError: no such model, a pickle in it, or steps outside its grid.
    """
    if steps is not None:
        check_range("--steps", steps, 1, 1000)
    baseline = read_baseline(model)
    folder = None if baseline else resolve_model(model)
    if folder is None or not (folder / INFERENCE_FILE).exists():
        return _load_plain(model, baseline or Baseline(model=str(folder)), steps)
    pipeline, inference = load_pipeline(folder, dtype=_text_dtype())
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    networks = load_transformers(folder, pipeline, inference)
    sampler = Sampler(pipeline, inference, steps, networks)
    return LoadedModel(
        name=model,
        sha256=model_sha256(folder),
        num_inference_steps=len(sampler.timesteps),
        num_parameters=sum(p.numel() for network in networks for p in network.parameters()),
        sampler=sampler,
        tokenizer=longest_tokenizer(pipeline),
        max_sequence_length=inference.max_sequence_length,
        has_filter=getattr(pipeline, "safety_checker", None) is not None,
        has_classes=family_of(pipeline).has_classes,
    )


def _text_dtype() -> torch.dtype | None:
    """Of text encoders: bf16 on a GPU, as in training there, where T5-XXL in float32 would take 19 GB."""
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else None


def _load_plain(model: str, baseline: Baseline, steps: int | None) -> LoadedModel:
    sampler = PipelineSampler(baseline, steps)
    return LoadedModel(
        name=model,
        sha256=hashlib.sha256(f"{model_sha256(sampler.folder)} {sampler.how_sha256}".encode()).hexdigest(),
        num_inference_steps=sampler.num_inference_steps,
        num_parameters=sum(p.numel() for network in sampler.networks for p in network.parameters()),
        sampler=sampler,
        tokenizer=sampler.tokenizer,
        max_sequence_length=sampler.max_sequence_length,
        has_filter=sampler.has_filter,
        has_classes=sampler.family is not None and sampler.family.has_classes,
    )
