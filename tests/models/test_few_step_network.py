"""One network for all steps, one for each, or a LoRA for each: what is shared, what is saved, what is run."""

import copy
import re

import pytest
import torch

from e2ed2.models.autoencoder import decode, to_uint8
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.few_step_network import FewStepNetwork, copies
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import load_pipeline, save_pipeline
from e2ed2.models.lora.adapter import lora_copies, merged
from e2ed2.models.scheduler import schedule_of
from e2ed2.models.text import encode_prompts
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder
from e2ed2.trajectory import draw_noises

PROMPT = "red apple"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pipeline(tiny_model):
    return load_pipeline(tiny_model)[0]


def network_of(pipeline, transformers, steps: int = 4) -> FewStepNetwork:
    inference = Inference("lcm", 4, 1.0, 64, 64)
    grids = [inference.grid(k) for k in range(1, steps + 1)]
    schedule = schedule_of(pipeline.scheduler)
    return FewStepNetwork(transformers, lambda t: denoiser_of(pipeline, t), schedule, "v_prediction", grids)


def shake(transformers) -> None:
    """Change every trainable parameter of each, by its own random amount."""
    for k, transformer in enumerate(transformers):
        torch.manual_seed(k)
        for p in transformer.parameters():
            if p.requires_grad:
                p.data += 0.05 * torch.randn_like(p)


def inputs(pipeline):
    cond = encode_prompts([PROMPT], pipeline)
    return draw_noises((1, 4, 16, 16), 4, generator()), cond


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_sets_begin_as_the_one_they_come_from_and_learn_apart(pipeline, kind):
    noises, cond = inputs(pipeline)
    shared = network_of(pipeline, [pipeline.transformer])(noises, cond).detach()
    transformer = pipeline.transformer
    sets = copies(transformer, 4) if kind == "copies" else lora_copies(transformer, 4, rank=2)
    network = network_of(pipeline, sets)
    torch.testing.assert_close(network(noises, cond), shared)
    shake(sets)
    network(noises, cond).square().sum().backward()
    per_step = [[p for p in s.parameters() if p.requires_grad] for s in sets]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in per_step[1])
    assert len({id(p) for step in per_step for p in step}) == sum(map(len, per_step))  # none is shared
    values = [float(step[0].detach().sum()) for step in per_step]
    assert len(set(values)) == 4


def test_a_lora_leaves_the_weights_below_it_alone_and_shares_their_memory(pipeline):
    before = [p.clone() for p in pipeline.transformer.parameters()]
    sets = lora_copies(pipeline.transformer, 4, rank=2)
    shake(sets)
    whole = sum(p.numel() for p in pipeline.transformer.parameters())
    adapters = sum(p.numel() for p in sets[0].parameters() if p.requires_grad)
    assert sum(p.numel() for p in torch.nn.ModuleList(sets).parameters()) == whole + 4 * adapters
    (one,) = merged(sets[1:2], copy.deepcopy(pipeline.transformer))
    noises, cond = inputs(pipeline)
    alone = [network_of(pipeline, [s])(noises, cond) for s in (sets[1], one)]
    torch.testing.assert_close(*alone, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, pipeline.transformer.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["copies", "lora"])
def test_a_folder_runs_each_step_s_own_network_here_and_in_plain_diffusers(pipeline, tmp_path, kind):
    """The same noise through the network in training, through `e2ed2 sample`, and through the card's own code."""
    transformer = pipeline.transformer
    sets = copies(transformer, 4) if kind == "copies" else lora_copies(transformer, 4, rank=2)
    shake(sets)
    noises, cond = inputs(pipeline)
    with torch.no_grad():
        expected = to_uint8(decode(pipeline.vae, network_of(pipeline, sets).eval()(noises, cond)))
    folder = tmp_path / "model"
    with atomic_folder(folder) as temporary:
        networks = merged(sets, copy.deepcopy(transformer))
        pipeline.register_modules(transformer=networks[0])
        save_pipeline(pipeline, Inference("lcm", 4, 1.0, 64, 64), temporary, later_transformers=networks[1:])
    loaded = load_model(str(folder), None)
    ours = loaded.sampler([Request(PROMPT, 0)])
    assert (ours.int() - expected.int()).abs().max() <= 1
    with pytest.raises(UserError, match="2 steps: the model has a network for each of its 4"):
        load_model(str(folder), 2)

    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    fed = iter(noises[1:])
    code = code.replace("red apple, twemoji style", PROMPT)
    code = code.replace("callback=use_next,", 'callback=use_next, latents=start, output_type="pt",')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(fed))
        scope = {"start": noises[0]}
        exec(code, scope)
    theirs = (scope["image"][None] * 255).round().to(torch.uint8)
    assert (theirs.int() - expected.int()).abs().max() <= 1


def test_a_folder_without_one_of_its_networks_is_refused(pipeline, tmp_path):
    transformers = copies(pipeline.transformer, 2)
    save_pipeline(pipeline, Inference("lcm", 2, 1.0, 64, 64), tmp_path, later_transformers=transformers[1:])
    (tmp_path / "transformer_2" / "config.json").unlink()
    with pytest.raises(UserError, match="transformer_2/config.json: No such file"):
        load_model(str(tmp_path), None)
