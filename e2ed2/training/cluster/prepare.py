"""A training's models as accelerate runs them: wrapped by DDP, in shards, or as they are."""

from dataclasses import replace

from accelerate import Accelerator

from e2ed2.training.cluster.sharding import WholeAverage, shard_average, shard_model
from e2ed2.training.stages.adversary import Adversary
from e2ed2.training.step import Trained


def prepare(
    accelerator: Accelerator, trained: Trained, adversary: Adversary | None
) -> tuple[Trained, WholeAverage | None]:
    """Both models with their optimizers, and of an average in shards how to have it whole."""
    whole = None
    if accelerator.is_fsdp2:
        whole = WholeAverage(trained.ema.module, accelerator)
        network, optimizer = shard_model(accelerator, trained.network, trained.optimizer)
        shard_average(accelerator, trained.ema.module)
    else:
        network, optimizer = accelerator.prepare(trained.network, trained.optimizer)
    if adversary is not None:
        adversary.prepare(accelerator)
    return Trained(network, trained.ema, optimizer), whole


def unwrapped(accelerator: Accelerator, trained: Trained) -> Trained:
    """Without the wrapper of several processes."""
    return replace(trained, network=accelerator.unwrap_model(trained.network))
