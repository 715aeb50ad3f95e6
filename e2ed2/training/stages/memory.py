"""Whether a run fits the device, said before anything large is loaded."""

from collections.abc import Callable

from accelerate.utils import parse_flag_from_env

from e2ed2.models.memory import device_memory
from e2ed2.models.needs import needs, settings
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.system.launched import num_started
from e2ed2.training.stages.start import start_folder

SURE = 0.85  # of what is counted a run takes at least: `benchmarks/plan.py`
SMALL = 1 / 40  # of the memory, files of weights below which all fits, and counting would only take time


def check_memory(config: Config, say: Callable[[str], None]) -> None:
    """Say what a training of a pretrained start will take, where that is much.

    Raises:
        UserError: more than there is; with what to type so that it fits, where anything does.
    """
    in_shards = parse_flag_from_env("ACCELERATE_USE_FSDP") and num_started() > 1  # of which a device holds a part
    if config.stage != "e2ed2" or config.model.architecture is not None or in_shards:
        return
    folder, has = start_folder(config), device_memory()
    if sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) < SMALL * has:
        return
    half = config.train.mixed_precision == "bf16"
    counted = needs(config, folder, half=half).peak_memory_bytes
    told = f"memory: about {counted / 2**30:.1f} GiB of {has / 2**30:.1f}, by count"
    if SURE * counted <= has:
        return say(told)
    fitting = (
        changed for other, changed in settings(config) if needs(other, folder, half=half).peak_memory_bytes <= has
    )
    changed = next(fitting, {"trajectory.parameters": "lora"})
    remedy = " ".join(f"{name}={str(value).lower()}" for name, value in changed.items())
    raise UserError(f"{told}: the run would end for lack of it; set {remedy}")
