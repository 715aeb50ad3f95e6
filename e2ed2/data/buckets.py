"""Aspect-ratio buckets: the shapes that images are resized and cropped to, all of about one area."""

import math
from collections.abc import Sequence

Shape = tuple[int, int]  # height, width in pixels


def bucket_shapes(size: int, max_ratio: float, step: int) -> list[Shape]:
    """All shapes with sides that `step` divides, at most `max_ratio` : 1, as large as fits into `size` x `size`.

    The square comes first; `max_ratio` 1 leaves it alone. The usual buckets of NovelAI's training.

    Args:
        size: side of the square, which `step` divides where there are other shapes.
    """
    shapes = [(size, size)]
    for short in range(step, size, step):
        long = size * size // short // step * step
        if long / short <= max_ratio:
            shapes += [(short, long), (long, short)]
    return shapes


def nearest_shape(height: int, width: int, shapes: Sequence[Shape]) -> int:
    """Index of the shape whose ratio of sides is nearest to the image's, on a logarithmic scale."""
    ratio = math.log(height / width)
    return min(range(len(shapes)), key=lambda i: abs(ratio - math.log(shapes[i][0] / shapes[i][1])))


def micro_conditioning(height: int, width: int, shape: Shape) -> tuple[int, ...]:
    """SDXL's time ids (arXiv:2307.01952, Sec. 2.2) of an image resized to cover `shape`, its centre kept."""
    scale = max(shape[0] / height, shape[1] / width)
    top, left = (round((side * scale - kept) / 2) for side, kept in zip((height, width), shape, strict=True))
    return height, width, top, left, *shape
