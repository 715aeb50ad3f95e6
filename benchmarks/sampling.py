"""Images a second of `e2ed2 sample` beside the same model's plain diffusers pipeline, at equal settings.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling [--json] [--out results/benchmarks]

`emoji-e2ed2`, 32 prompts at a time, turn by turn, the median of five rounds; both encode the prompts and end with
pictures in 8 bits. `ratio`: ours over the pipeline's.
"""

from functools import partial
from statistics import median

from benchmarks.published import publish, seconds
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.sampling.folder import requests_for
from e2ed2.sampling.model import load_model

MODEL, ROUNDS = "emoji-e2ed2", 5
PROMPTS = [f"{colour} {thing}" for colour in ("red", "green", "blue", "small") for thing in
           ("apple", "car", "cat", "star", "house", "tree", "flag", "fish")]  # fmt: skip


def measure() -> dict[str, float]:
    pipeline, inference = load_pipeline(resolve_model(MODEL))
    pipeline.set_progress_bar_config(disable=True)
    call = {
        "guidance_scale": inference.guidance_scale, "height": inference.height, "width": inference.width,
        "max_sequence_length": inference.max_sequence_length, "use_resolution_binning": False, "clean_caption": False,
    }  # fmt: skip
    figures: dict[str, float] = {}
    for steps in (4, 1):
        ours = partial(load_model(MODEL, steps).sampler, requests_for(PROMPTS, 1, 0))
        plain = partial(pipeline, PROMPTS, timesteps=inference.grid(steps).tolist(), **call)
        rows = [(seconds(ours), seconds(plain)) for _ in range(ROUNDS + 1)][1:]
        figures |= {
            f"images_per_second_{steps}_steps": len(PROMPTS) / median(row[0] for row in rows),
            f"pipeline_{steps}_steps": len(PROMPTS) / median(row[1] for row in rows),
            f"ratio_{steps}_steps": median(theirs / own for own, theirs in rows),
        }
    return figures


if __name__ == "__main__":
    publish("sampling", measure)
