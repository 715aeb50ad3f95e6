"""The bundled feature network where its file is not what was shipped."""

import re

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.models.losses import squeezenet
from e2ed2.system.errors import UserError


@pytest.mark.parametrize("problem", ["missing", "cut off", "of another network"])
def test_a_missing_or_damaged_file_is_told_in_one_line(problem, tmp_path, monkeypatch):
    path = tmp_path / "squeezenet.safetensors"
    if problem == "cut off":
        path.write_bytes(squeezenet.WEIGHTS.read_bytes()[:1000])
    elif problem == "of another network":
        save_file({"weight": torch.zeros(1)}, path)
    monkeypatch.setattr(squeezenet, "WEIGHTS", path)
    with pytest.raises(UserError) as error:
        squeezenet.load_squeezenet()
    assert re.fullmatch(r".*squeezenet.safetensors: missing or damaged \(.+\); reinstall e2ed2", str(error.value))
