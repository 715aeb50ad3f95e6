"""Gradients of two processes against those of one that has the joint batch; a JSON object on stdout.

    python gradients.py FOLDER TINY_MODEL [WAY ...]    (run by test_gradients.py)

Gradients are noted as AdamW sees them. In shards it is asserted that parameters, gradients and the average are.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from forks import HOW, run, settle
from photos import save_photos
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from e2ed2.data.order import mix
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import build_config
from e2ed2.training import loop, step
from e2ed2.training.log import read_metrics

LORA = {"parameters": "lora", "lora_rank": 4}
GAN = {"weight": 0.1, "num_discriminator_updates": 1, "lr": 1e-6}
KEEP = {"weight": 1.0, "batch_size": 2}
REDUCTIONS = ("c10d::allreduce_", "c10d::_reduce_scatter_base_", "c10d::reduce_scatter_")
WAYS = {
    "full": {},
    "LoRA": {"trajectory": LORA},
    "GAN": {"objective": {"adversarial": GAN}},
    "a LoRA a step": {"trajectory": {**LORA, "parameters": "lora_per_step"}},
    "GAN with R1": {"objective": {"adversarial": {**GAN, "r1_weight": 1.0}}},
    "computed again": {"trajectory": {"gradient_checkpointing": True}, "model": {"gradient_checkpointing": True}},
    "selectively": {"model": {"gradient_checkpointing": "selective"}},
    "compiled": {"model": {"compile": True}},
    "kept near the start": {"objective": {"keep": KEEP}},
    "LoRA kept near the start": {"trajectory": LORA, "objective": {"keep": KEEP}},
    "LoRA and grid kept near the start": {
        "trajectory": LORA | {"time_grid": "learned"},
        "objective": {"keep": KEEP},
    },
}


def recipe(folder, model, photos, way, num_micro):
    sections = WAYS[way]
    often = {"max_train_steps": 2, "log_every": 1, "preview_every": 100, "mixed_precision": "no", "micro_batch_size": 2}
    return build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": folder},
            "data": {"source": "folder", "path": photos},
            "model": {"path": model, **sections.get("model", {})},
            "trajectory": {"num_inference_steps": 2, "start": "pure_noise", **sections.get("trajectory", {})},
            "objective": {"l2": {"weight": 1}, **sections.get("objective", {})},
            "train": {**often, "lr": 1e-5, "max_grad_norm": 1e9, "gradient_accumulation_steps": num_micro},
        }
    )


def noting(found):
    """`update`, which puts the gradients that the optimizers see into `found`."""

    def update(stage, trained, config, order, number, accelerator):
        if number == 0:
            num_shards = accelerator.num_processes if "ACCELERATE_USE_FSDP" in os.environ else 1
            network = accelerator.unwrap_model(trained.network)
            note(found, "sampler", network, trained.optimizer, num_shards)
            assert all(isinstance(p, DTensor) == (num_shards > 1) for p in trained.ema.parameters())
            parts = expected_parts(num_shards, len(network.transformers))
            assert num_parts(network) == num_parts(trained.ema) == parts, (num_parts(network), parts)
            if stage.adversary:
                note(found, "discriminator", stage.adversary.network, stage.adversary.optimizer, num_shards)
        return step.update(stage, trained, config, order, number, accelerator)

    return update


def num_parts(network):
    """How many of its modules are shards of their own."""
    return sum(isinstance(module, FSDPModule) for module in network.modules())


def expected_parts(num_shards, num_sets):
    """PixArt names blocks and patches, of which the tiny one has one; sets that share what is frozen are one."""
    is_divided = "FSDP_AUTO_WRAP_POLICY" in os.environ and num_sets == 1
    return 0 if num_shards == 1 else 1 + 2 * is_divided


def note(found, part, network, optimizer, num_shards):
    plain, numbers = optimizer.step, iter(range(100))

    def noted(*args, **kwargs):
        number = next(numbers)
        for name, p in network.named_parameters():
            assert isinstance(p, DTensor) == (num_shards > 1), f"{name} is a {type(p)}"
            if p.requires_grad:
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                if num_shards > 1:
                    assert grad.shape[0] < num_shards or grad.to_local().numel() < grad.numel(), f"{name} is whole"
                    grad = grad.full_tensor()
                found[f"{part}.{number}.{name}"] = grad.clone().contiguous()
        return plain(*args, **kwargs)

    optimizer.step = noted


def joint_adversary(joint):
    """`step._update_adversary` of `joint` processes in one: it is shown the micro-batches of all."""

    def update(stage, network, config, order, number, accelerator):
        terms = {}
        for i in range(stage.adversary.settings.num_discriminator_updates if stage.adversary else 0):
            terms = {}
            for rank in range(joint):
                seed = mix(config.seed, number * joint + rank)
                generator = torch.Generator().manual_seed(mix(seed, 1 + i))
                rows = order.random_rows(generator)
                torch.manual_seed(mix(seed, -1 - i))
                for name, term in stage.adversary.loss_terms(network, rows, generator).items():
                    terms[name] = terms.get(name, 0) + term / joint
            stage.adversary.step(terms, accelerator)
        return {name: term.item() for name, term in terms.items()}

    return update


def noted_run(config, file, joint):
    def work(rank):
        found = {}
        loop.update = noting(found)
        if joint > 1:
            step._update_adversary = joint_adversary(joint)
        loop.train(config, print)
        if rank == 0:
            save_file(found, file)

    return work


def difference(ours, theirs):
    """Largest distance of a model's gradients in an update, relative to their norm."""
    assert ours.keys() == theirs.keys() and any(name.startswith("sampler.1.") for name in ours)
    distances = []
    for part in {name[: name.index(".", name.index(".") + 1) + 1] for name in ours}:
        a, b = (torch.cat([x[k].flatten() for k in sorted(x) if k.startswith(part)]) for x in (ours, theirs))
        assert b.norm() > 0, part
        distances.append(float((a - b).norm() / b.norm()))
    return max(distances)


def losses(run_dir):
    return [[row[k] for k in ("images_seen", "total", "grad_norm")] for row in read_metrics(run_dir / "metrics.jsonl")]


def reductions(folder, model, photos, env):
    """How often two processes add up gradients in an update of two micro-batches, and in one of four."""
    folder.mkdir()

    def counting(file):
        def update(stage, trained, config, order, number, accelerator):
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                row = step.update(stage, trained, config, order, number, accelerator)
            names = Counter(event.name for event in profiled.events())
            file.write_text(str(sum(count for name, count in names.items() if name in REDUCTIONS)))
            return row

        return update

    def counted(num_micro):
        def work(rank):
            loop.update = counting(folder / f"{num_micro}-{rank}")
            loop.train(recipe(folder / str(num_micro), model, photos, "full", num_micro), print)

        status = run(2, work, folder / "said.txt", env)
        return [status, [int((folder / f"{num_micro}-{rank}").read_text()) for rank in range(2)]]

    return [counted(num_micro) for num_micro in (2, 4)]


def goes_on(folder, model, photos, env):
    """A GAN with past samples in two processes, four updates in one go and in two."""
    folder.mkdir()
    WAYS["GAN with past samples"] = {"objective": {"adversarial": {**GAN, "buffer_size": 2}}}

    def part(name, steps):
        config = recipe(folder / name, model, photos, "GAN with past samples", 1)
        return lambda rank: loop.train(
            config.model_copy(update={"train": config.train.model_copy(update={"max_train_steps": steps})}), print
        )

    parts = (("whole", 4), ("parts", 2), ("parts", 4))
    statuses = [run(2, part(name, steps), folder / "said.txt", env) for name, steps in parts]
    rows = [losses(folder / name) for name in ("whole", "parts")]
    return {"statuses": statuses, "rows": rows, "said": (folder / "said.txt").read_text()[-4000:]}


def main(folder, model, ways):
    load_pipeline(Path(model))  # imports what every child would
    settle()
    photos, outcome = save_photos(folder / "photos"), {}
    for way in ways or WAYS:
        at = folder / way.replace(" ", "-")
        at.mkdir()
        said = at / "said.txt"
        alone = noted_run(recipe(at / "one", model, photos, way, 4), at / "one.safetensors", joint=2)
        outcome[way] = {"one": run(1, alone, said)}
        for how, env in HOW.items():
            name = how.replace(" ", "-")
            work = noted_run(recipe(at / name, model, photos, way, 2), at / f"{name}.safetensors", joint=1)
            result = {"status": run(2, work, said, env)}
            if result["status"] == [0, 0]:
                files = (load_file(at / f"{each}.safetensors") for each in (name, "one"))
                result |= {"difference": difference(*files), "losses": [losses(at / each) for each in (name, "one")]}
                result["models"] = sorted({key.partition(".")[0] for key in load_file(at / f"{name}.safetensors")})
            outcome[way][how] = result
        outcome[way]["said"] = said.read_text()[-6000:]
    if not ways:
        outcome["reductions"] = {how: reductions(folder / f"{how} counted", model, photos, HOW[how]) for how in HOW}
        outcome["goes on"] = {how: goes_on(folder / how.replace(" ", "-"), model, photos, HOW[how]) for how in HOW}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
