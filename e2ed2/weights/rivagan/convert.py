"""Makes `rivagan.safetensors` from the two ONNX files in the wheel of `invisible-watermark` 0.2.0; needs `onnx`.

python convert.py invisible_watermark-0.2.0-py3-none-any.whl
"""

import hashlib
import sys
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

SHA256 = {
    "encoder": "66bc7814fadac7d686105c8ab26c6cf2cc8e40deb83e67bb6ef5b9de9b8ece0d",
    "decoder": "6b006690cf352fa50a91a0b6d6241dbcded0a9957969e2c0665cf9a7011b3880",
}


def main(wheel: Path) -> None:
    tensors = {}
    for part, sha256 in SHA256.items():
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(f"imwatermark/rivagan_{part}.onnx")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SystemExit(f"{wheel}: its {part} is not that of invisible-watermark 0.2.0")
        for weight in onnx.load_from_string(data).graph.initializer:
            if "." in weight.name:  # the others are shapes
                tensor = torch.from_numpy(numpy_helper.to_array(weight).copy())
                tensor = tensor[:, :, 0] if tensor.ndim == 5 else tensor  # it was made for videos: one frame
                tensors[f"{part}.{weight.name.removeprefix('_')}"] = tensor.contiguous()
    save_file(tensors, Path(__file__).parent / "rivagan.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
