"""Does memory grow with the number of images? Peaks of the features of random pictures, and of two such sets' metrics.

    python benchmarks/evaluation_memory.py 5000 30000

The network is a tiny projection, so that what is measured is ours: reading, features on disk, statistics, distances.
Each count runs in a process of its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from e2ed2.data.image_set import FileImages
from e2ed2.evaluation.features.store import stored_features
from e2ed2.evaluation.metrics.distribution import frechet_distance, kernel_distance
from e2ed2.evaluation.metrics.neighbourhoods import coverage
from e2ed2.system.environment import device_name

SIDE, WIDTH = 32, 256
MOST_PAIRED = 30_000  # images for which kernels and neighbours are measured too: they take count^2 time


class Projection:
    """[3, 32, 32] -> 256 numbers."""

    name, weights_sha256 = "projection", "0"
    weight = torch.randn(3 * SIDE * SIDE, WIDTH, generator=torch.Generator().manual_seed(0)) / 55

    def __call__(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(images).flatten(1).float() / 255 @ self.weight


def peak_mib() -> float:
    """The most this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(count: int) -> dict[str, float]:
    """Peak MiB after each part."""
    found = {"images": count, "start_mib": peak_mib()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [folder / f"{i:05d}.png" for i in range(count)]
        random = np.random.default_rng(0)
        for path in paths:
            Image.fromarray(random.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)).save(path, compress_level=1)
        images = FileImages(paths, "samples")
        features = stored_features(images, images.sha256(), Projection(), folder, lambda done, total: None)
        found["features_mib"] = peak_mib()
        others = features.flip(0) + 0.1  # a second set of as many
        frechet_distance(features, others)
        found["frechet_mib"] = peak_mib()
        if count <= MOST_PAIRED:
            kernel_distance(features, others)
            coverage(features, others)
            found["pairs_mib"] = peak_mib()
    return found


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    print(f"{device_name()}, torch {torch.__version__}")
    for count in sys.argv[1:]:
        run = subprocess.run([sys.executable, __file__, "--one", count], capture_output=True, text=True, check=True)
        print(run.stdout.strip())


if __name__ == "__main__":
    main()
