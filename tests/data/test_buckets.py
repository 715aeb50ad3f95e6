"""Bucket shapes and what a network is told of a crop."""

import pytest

from e2ed2.data.buckets import bucket_shapes, micro_conditioning, nearest_shape


def test_shapes_hold_to_step_ratio_and_area():
    shapes = bucket_shapes(512, max_ratio=2.0, step=64)
    assert shapes[0] == (512, 512) and len(set(shapes)) == len(shapes)
    assert set(shapes[1:]) == {(384, 640), (640, 384), (448, 576), (576, 448)}  # 320 x 768 is beyond 2 : 1
    assert {tuple(reversed(shape)) for shape in shapes} == set(shapes)


def test_ratio_1_is_the_square_alone():
    assert bucket_shapes(1024, max_ratio=1.0, step=64) == [(1024, 1024)]


@pytest.mark.parametrize(("height", "width", "shape"), [(9, 9, 0), (1, 3, 1), (30, 10, 2), (100, 101, 0)])
def test_an_image_goes_to_the_nearest_ratio(height, width, shape):
    assert nearest_shape(height, width, [(64, 64), (32, 128), (128, 32)]) == shape


def test_of_several_sizes_the_largest_that_an_image_fills():
    shapes = bucket_shapes(1024, max_ratio=1.5, step=64, sizes=[512, 768])
    squares = [i for i, shape in enumerate(shapes) if shape[0] == shape[1]]
    assert [shapes[i][0] for i in squares] == [1024, 512, 768] and len(set(shapes)) == len(shapes)

    def fitted(height: int, width: int) -> tuple[int, int]:
        return shapes[nearest_shape(height, width, shapes)]

    assert fitted(2000, 2000) == (1024, 1024) and fitted(1024, 1024) == (1024, 1024)
    assert fitted(1023, 1023) == (768, 768) and fitted(767, 3000)[0] < 768
    assert fitted(600, 700) == (448, 576), "1.17 is nearer to 576 : 448 than to the square"
    assert fitted(100, 100) == (512, 512), "too small for all: the least enlargement"
    tall, wide = fitted(900, 640), fitted(640, 900)
    assert tall == wide[::-1] and tall[0] <= 900 and tall[1] <= 640


def test_micro_conditioning_by_hand():
    """600 x 900 covers 512 x 512 at 512 x 768: 128 columns are cut off at each side."""
    assert micro_conditioning(600, 900, (512, 512)) == (600, 900, 0, 128, 512, 512)
    assert micro_conditioning(64, 32, (32, 32)) == (64, 32, 16, 0, 32, 32)
    assert micro_conditioning(16, 16, (64, 64)) == (16, 16, 0, 0, 64, 64)
