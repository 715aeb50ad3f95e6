"""What a CPU draws with the bundled model, and the embeddings of its prompts, for machines without a text encoder.

    python -m benchmarks.gpu.reference    (writes reference.safetensors anew; needs the extra `emoji`)
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).with_name("reference.safetensors")
THINGS, STYLES = ("red apple", "dog", "sun", "car"), ("twemoji", "openmoji")
PROMPTS = [f"{thing}, {style} style" for style in STYLES for thing in THINGS]
SEEDS = range(len(PROMPTS))


def reference() -> dict[str, Tensor]:
    """embeds [N, L, D], mask [N, L], and images [N, 3, H, W] as `e2ed2 sample` draws them, uint8."""
    from e2ed2.models.folders.bundled import resolve_model
    from e2ed2.models.folders.pipeline import load_pipeline
    from e2ed2.models.text import encode_prompts
    from e2ed2.sampling.generate import Request, Sampler

    pipeline, inference = load_pipeline(resolve_model("emoji-e2ed2"))
    cond = encode_prompts(PROMPTS, pipeline, inference.max_sequence_length)
    assert cond.mask is not None
    requests = [Request(prompt, seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    return {"embeds": cond.embeds, "mask": cond.mask, "images": Sampler(pipeline, inference)(requests).contiguous()}


if __name__ == "__main__":
    save_file(reference(), FILE)
