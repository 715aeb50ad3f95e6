"""Checkpoints in shards: every process writes what it holds, and any number of processes reads it.

By `torch.distributed.checkpoint`, as safetensors files, which hold where each piece belongs; nothing is unpickled.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from e2ed2.system.errors import UserError, said
from e2ed2.system.files import atomic_folder, file_sha256, raise_if_disk_refused
from e2ed2.training.checkpoint import STATE_FILE, TrainState, is_sharded, shard_file, write_beside
from e2ed2.training.cluster.tensors import begin_moments, moments
from e2ed2.training.saved import learned
from e2ed2.training.stages.adversary import Adversary
from e2ed2.training.step import Trained

Prefixed = dict[str, Tensor]


def tensors_of(trained: Trained, adversary: Adversary | None, rank: int) -> Prefixed:
    """All that an update changes: views of it, into which a checkpoint can be read."""
    parts = {"network": learned(trained.network), "ema": learned(trained.ema)}
    parts["optimizer"] = moments(trained.network, trained.optimizer)
    if adversary is not None:
        parts["discriminator"] = learned(adversary.network)
        parts["discriminator_optimizer"] = moments(adversary.network, adversary.optimizer)
        parts[f"past_{rank}"] = {f"{i:06}": stack for i, stack in enumerate(adversary.past)}
    return {f"{part}.{name}": x.detach() for part, tensors in parts.items() for name, x in tensors.items()}


def save_shards(
    folder: Path,
    state: TrainState,
    tensors: Mapping[str, Tensor],
    accelerator: Accelerator,
    data_states: Sequence[Any] = (),
) -> None:
    """Write `folder/step-N`, atomically, a file of each process. All of them have to call it.

    Raises:
        UserError: the disk of one is full or refuses, or they do not share it; earlier checkpoints are untouched.
    """
    with _common_folder(folder / f"step-{state.global_step}", accelerator) as temporary:
        writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        try:
            dcp.save(dict(tensors), storage_writer=writer)
        except CheckpointException as error:
            for failure, _ in error.failures.values():
                raise_if_disk_refused(folder, failure)
            raise
        own = temporary / shard_file(accelerator.process_index)
        digests = dict(gather_object([(own.name, file_sha256(own))] if own.exists() else []))
        if accelerator.is_main_process:
            if missing := [name for name in digests if not (temporary / name).exists()]:
                raise UserError(f"run.dir {folder.parent}: no {missing[0]}; give a folder that all nodes share")
            digests |= write_beside(temporary, accelerator.scaler, data_states)
            (temporary / STATE_FILE).write_text(json.dumps({**state.model_dump(), "sha256": digests}, indent=1))


@contextmanager
def _common_folder(final: Path, accelerator: Accelerator) -> Iterator[Path]:
    """`atomic_folder` of the main process, for all; it is final when they leave it."""
    if accelerator.is_main_process:
        with atomic_folder(final) as temporary:
            accelerator.wait_for_everyone()
            yield temporary
    else:
        accelerator.wait_for_everyone()
        yield final.with_name(final.name + ".tmp")
    accelerator.wait_for_everyone()


def load_shards(checkpoint: Path, trained: Trained, adversary: Adversary | None, rank: int) -> None:
    """Restore everything in place, by any number of processes.

    Raises:
        UserError: the checkpoint is of another architecture or optimizer.
    """
    assert is_sharded(checkpoint)
    try:
        reader = dcp.HuggingFaceStorageReader(str(checkpoint))
        saved = reader.read_metadata().state_dict_metadata
        begin_moments(trained.network, trained.optimizer, _below("optimizer", saved))
        if adversary is not None:
            begin_moments(adversary.network, adversary.optimizer, _below("discriminator_optimizer", saved))
            past = [meta for name, meta in sorted(saved.items()) if name.startswith(f"past_{rank}.")]
            sizes = [meta.size for meta in past if isinstance(meta, TensorStorageMetadata)]
            adversary.past = [torch.empty(size, device=adversary.device) for size in sizes]
        tensors = tensors_of(trained, adversary, rank)
        if unknown := sorted(name for name in saved.keys() - tensors.keys() if not name.startswith("past_")):
            raise ValueError(f"{unknown[0]} has no place")
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except (CheckpointException, ValueError, KeyError, RuntimeError) as error:
        failures = error.failures if isinstance(error, CheckpointException) else {}
        reason = next((failure for failure, _ in failures.values()), error)
        raise UserError(
            f"{checkpoint}: checkpoint of another architecture ({said(reason)}); use another run.dir or the recipe it "
            "was made with"
        ) from error


def _below(part: str, names: Mapping[str, Any]) -> set[str]:
    return {name.removeprefix(f"{part}.") for name in names if name.startswith(f"{part}.")}
