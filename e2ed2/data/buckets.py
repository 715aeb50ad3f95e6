"""Aspect-ratio buckets: the shapes that images are resized and cropped to, all of about one area, or of a few."""

import math
from collections.abc import Sequence

Shape = tuple[int, int]  # height, width in pixels


def bucket_shapes(size: int, max_ratio: float, step: int, sizes: Sequence[int] = ()) -> list[Shape]:
    """All shapes with sides that `step` divides, at most `max_ratio` : 1, as large as fits into `size` x `size`.

    The square comes first; `max_ratio` 1 leaves it alone. The usual buckets of NovelAI's training. Those of further
    `sizes` follow, each beginning with its square.

    Args:
        size: side of the square, which `step` divides where there are other shapes; so are `sizes`.
    """
    shapes: list[Shape] = []
    for base in (size, *sizes):
        found = [(base, base)]
        for short in range(step, base, step):
            long = base * base // short // step * step
            if long / short <= max_ratio:
                found += [(short, long), (long, short)]
        shapes += [shape for shape in found if shape not in shapes]
    return shapes


def nearest_shape(height: int, width: int, shapes: Sequence[Shape]) -> int:
    """Index of the shape that an image is fitted to: the nearest ratio of sides, on a logarithmic scale.

    Of several sizes the largest to which the image need not be enlarged, or else the smallest. Shapes without a square
    are of one size.
    """
    ratio = math.log(height / width)
    squares = [i for i, shape in enumerate(shapes) if shape[0] == shape[1]] or [0]
    nearest = []
    for first, end in zip(squares, [*squares[1:], len(shapes)], strict=True):
        nearest.append(min(range(first, end), key=lambda i: abs(ratio - math.log(shapes[i][0] / shapes[i][1]))))
    nearest.sort(key=lambda i: math.prod(shapes[i]))
    fitting = [i for i in nearest if shapes[i][0] <= height and shapes[i][1] <= width]
    return fitting[-1] if fitting else nearest[0]


def micro_conditioning(height: int, width: int, shape: Shape) -> tuple[int, ...]:
    """SDXL's time ids (arXiv:2307.01952, Sec. 2.2) of an image resized to cover `shape`, its centre kept."""
    scale = max(shape[0] / height, shape[1] / width)
    top, left = (round((side * scale - kept) / 2) for side, kept in zip((height, width), shape, strict=True))
    return height, width, top, left, *shape
