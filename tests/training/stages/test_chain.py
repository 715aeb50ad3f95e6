"""The whole chain of recipes on tiny networks: autoencoder -> base -> lcm -> e2ed2, each interrupted and resumed."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from e2ed2.recipe.load import build_config
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train

AUTOENCODER = {
    "sample_size": 64,
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "norm_num_groups": 4,
}
DENOISER = {
    "sample_size": 16,
    "patch_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 384,
    "norm_type": "ada_norm_single",
    "use_additional_conditions": False,
    "dropout": 0.1,
}
OFTEN = {"max_train_steps": 4, "micro_batch_size": 6, "checkpoint_every": 2, "preview_every": 4, "log_every": 1}
SECTIONS = {
    "autoencoder": {"objective": {"l1": {"weight": 1}}},
    "base": {"data": {"caption_dropout": 0.1}},
    "lcm": {},
    "e2ed2": {"objective": {"patch_energy": {"weight": 1}, "num_samples": 2}},
}


def quiet(line):
    pass


def interrupt(step, steps, row):
    if step == 3:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_every_stage_resumes_exactly_and_the_last_model_draws(tiny_emoji, tmp_path, monkeypatch, without_time):
    from diffusers import DiffusionPipeline

    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    start = None
    for stage, architecture in zip(SECTIONS, (AUTOENCODER, DENOISER, None, None), strict=True):
        metrics, weights = [], []
        for name in ("undisturbed", "interrupted"):
            run_dir = tmp_path / stage / name
            model = {"path": start, "architecture": architecture}
            values = {"stage": stage, "run": {"dir": run_dir}, "model": model, "train": OFTEN, **SECTIONS[stage]}
            config = build_config(values)
            if name == "interrupted":
                with pytest.raises(KeyboardInterrupt):
                    train(config, quiet, interrupt)
            exported = train(config, quiet)
            metrics.append(without_time(read_metrics(run_dir / "metrics.jsonl")))
            weights.append(load_file(run_dir / "checkpoints" / "step-4" / "ema.safetensors"))
        assert len(metrics[0]) == 4 and metrics[0] == metrics[1]
        assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
        start = str(exported)
    pipeline = DiffusionPipeline.from_pretrained(start)
    image = pipeline(
        "apple", num_inference_steps=4, guidance_scale=1.0, height=64, width=64, use_resolution_binning=False
    )
    assert image.images[0].size == (64, 64)
