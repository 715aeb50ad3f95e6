"""What each way to take less memory changes: fifty updates of a LoRA with it, beside the same updates without.

    OMP_NUM_THREADS=1 python -m benchmarks.memory_options

`emoji-e2ed2` moves to the style noto. Printed are the time of an update over the plain one's, the mean total loss of
the last ten updates, and how far 64 samples are from those of the plain run: mean absolute difference in levels of 255.
Beside them stand the start, which has learned nothing, and the plain run in another order of the images.
"""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.cost import timed_train
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.recipe.load import load_config
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.training.log import read_metrics

START, UPDATES, NUM_IMAGES = "emoji-e2ed2", 50, 64
PLAIN = {
    "model.path": START, "data.source": "folder", "data.size": 64, "data.images_per_caption": 1,
    "trajectory.parameters": "lora", "trajectory.lora_rank": 64, "trajectory.random_num_steps": False,
    "trajectory.num_steps_weights": [], "trajectory.start": "pure_noise", "trajectory.timesteps": [[999, 828, 617, 97]],
    "objective.lpips.weight": 0, "objective.patch_energy.weight": 0, "objective.lpips_energy.weight": 0,
    "train.micro_batch_size": 16, "train.gradient_accumulation_steps": 1, "train.lr": 3e-4, "train.ema_decay": 0.9,
    "train.max_train_steps": UPDATES, "train.log_every": 1, "train.preview_every": 10**6, "train.mixed_precision": "no",
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, another seed": {"train.seed": 1},
    "blocks recomputed": {"model.gradient_checkpointing": True},
    "steps recomputed": {"trajectory.gradient_checkpointing": True},
    "activations offloaded": {"train.offload_activations": True},
    "frozen weights offloaded": {"model.frozen_weights": "offloaded"},
    "frozen weights int8": {"model.frozen_weights": "int8"},
    "frozen weights nf4": {"model.frozen_weights": "nf4"},
    "AdamW 8 bit": {"train.optimizer": "adamw_8bit"},
}


def main() -> None:
    rows, plain, plain_seconds = [], torch.empty(0), 0.0
    with tempfile.TemporaryDirectory() as temporary:
        data = load_style("noto", "train")
        prompts = list(dict.fromkeys(data.captions))[:NUM_IMAGES]
        write_style(data, Path(temporary) / "noto")
        for number, (name, fields) in enumerate(WAYS.items()):
            run_dir = Path(temporary) / str(number)
            own = {"run.dir": str(run_dir), "data.path": str(Path(temporary) / "noto"), **PLAIN, **fields}
            config = load_config(Path("emoji/e2ed2"), [f"{k}={v!r}" for k, v in own.items()])
            model, seconds = timed_train(config)
            samples = drawn(str(model), prompts)
            if name == "plain":
                plain, plain_seconds = samples, seconds
                rows.append(["start", "", "", f"{distance(drawn(START, prompts), plain):.2f}"])
            loss = fmean(row["total"] for row in read_metrics(run_dir / "metrics.jsonl")[-10:])
            ratio, apart = seconds / plain_seconds, distance(samples, plain)
            rows.append([name, f"{ratio:.2f}", f"{loss:.4f}", f"{apart:.2f}"])
            print(rows[-1], flush=True)
    print(markdown_table(["fifty updates", "time of an update", "loss", "samples apart"], rows))


def drawn(model: str, prompts: list[str]) -> torch.Tensor:
    """uint8 [N, 3, 64, 64], the same noise for every model."""
    return load_model(model).sampler([Request(prompt, seed) for seed, prompt in enumerate(prompts)])


def distance(images: torch.Tensor, others: torch.Tensor) -> float:
    return (images.float() - others.float()).abs().mean().item()


if __name__ == "__main__":
    main()
