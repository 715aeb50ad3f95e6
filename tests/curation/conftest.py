"""Small images that no two hashes confuse, and pipelines over them."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from e2ed2.curation.pipeline import Pipeline, load_pipeline
from e2ed2.curation.run import curate
from e2ed2.system.watch import silent


def picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_images(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.jpg").write_bytes(encoded(picture(number)))
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder


def pipeline_of(out: Path, *overrides: str) -> Pipeline:
    return load_pipeline(Path("curation/folder"), [f"output.path={out}", *overrides])


def run(pipeline: Pipeline) -> dict[str, dict]:
    """id -> row of the manifest."""
    curate(pipeline, silent)
    return {row["id"]: row for row in pq.read_table(pipeline.output.path / "manifest.parquet").to_pylist()}


def contents(out: Path) -> dict[str, bytes]:
    """What a pipeline made, but for its report."""
    return {path.name: path.read_bytes() for path in [out / "manifest.parquet", *(out / "shards").iterdir()]}


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_images(tmp_path / "photos", 10)
