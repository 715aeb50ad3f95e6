"""Weights of a network alone in one file: in diffusers' names, in those of the model's first code, or GGUF."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from e2ed2.models.folders.misnamed import GGUF
from e2ed2.models.folders.parts import refusing
from e2ed2.models.one_file.header import is_adapter, looks_like, missing_parts, read_header
from e2ed2.system.errors import UserError


def network_weights(network: Any, file: Path, name: str) -> dict[str, Tensor]:
    """The weights of a file, in the names of `network`, a diffusers network, and as a rule in its precision.

    Args:
        name: of the file, as the user gave it.
    Raises:
        UserError: it holds something else, or weights of another network.
    """
    kind = type(network).__name__
    where, remedy = f"network {name}: no weights of this {kind}", "give another file, or another model.path"
    if file.suffix == GGUF:
        with refusing(where, remedy):
            return _dequantised(network, file)
    tensors = read_header(file, f"network {name}")
    if is_adapter(tensors):
        raise UserError(f"network {name}: an adapter: give it as model.lora")
    if not missing_parts(tensors):
        raise UserError(f"network {name}: a whole model, text encoders and all: give it as model.path")
    if tensors.keys() != network.state_dict().keys() and hasattr(type(network), "from_single_file"):
        kinds = looks_like(tensors)
        with refusing(f"{where}{f'; it looks like {kinds[1]}' if kinds else ''}", remedy):
            return _converted(network, load_file(file))
    with refusing(where, remedy):
        return load_file(file)


def _converted(network: Any, source: Any, **options: Any) -> dict[str, Tensor]:
    """What diffusers makes of a file or of its tensors, for a network with the config of `network`."""
    with TemporaryDirectory() as folder:
        network.save_config(folder)
        made = type(network).from_single_file(source, config=folder, torch_dtype=network.dtype, **options)
    if missing := [name for name, x in made.state_dict().items() if x.is_meta]:
        raise ValueError(f"{len(missing)} of {len(made.state_dict())} tensors are missing, such as {missing[0]}")
    return made.dequantize().state_dict() if options else made.state_dict()


def _dequantised(network: Any, file: Path) -> dict[str, Tensor]:
    try:
        import gguf  # noqa: F401 - diffusers reads such files with it
    except ImportError as error:
        raise UserError("model.network: a .gguf file is read with gguf: run `pip install 'e2ed2[gguf]'`") from error
    from diffusers import GGUFQuantizationConfig

    return _converted(network, str(file), quantization_config=GGUFQuantizationConfig(compute_dtype=network.dtype))
