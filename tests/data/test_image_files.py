"""Image decoding against known pixel values."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.data.decoding import fitted_tensor, read_image
from e2ed2.data.image_files import decode_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def pixel(image: torch.Tensor, y: int = 0, x: int = 0) -> tuple[int, ...]:
    return tuple(image[:, y, x].tolist())


def test_transparency_becomes_white(tmp_path):
    rgba = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    rgba.paste((255, 0, 0, 255), (4, 0, 8, 8))
    rgba.paste((0, 0, 0, 51), (0, 4, 4, 8))  # a fifth of black over white: 204
    rgba.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 8)
    assert [pixel(image, 0, 0), pixel(image, 0, 7), pixel(image, 7, 0)] == [(255,) * 3, RED, (204,) * 3]


def test_transparent_palette_entry_becomes_white(tmp_path):
    paletted = Image.new("P", (8, 8), 0)
    paletted.putpalette([0, 0, 0, *GREEN])
    paletted.paste(1, (4, 0, 8, 8))
    paletted.save(tmp_path / "a.png", transparency=0)
    image = read_image(tmp_path / "a.png", 8)
    assert pixel(image, 0, 0) == (255, 255, 255) and pixel(image, 0, 7) == GREEN


@pytest.mark.parametrize(("tag", "red_corner"), [(1, (4, 4)), (3, (12, 12)), (6, (4, 12)), (8, (12, 4))])
def test_exif_rotation(tmp_path, tag, red_corner):
    """Stored with red at the top left; orientation 6 turns it clockwise, so red comes to the top right."""
    stored = Image.new("RGB", (16, 16), BLUE)
    stored.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg", 16).int()
    expected = {(y, x): RED if (y, x) == red_corner else BLUE for y in (4, 12) for x in (4, 12)}
    for (y, x), color in expected.items():
        assert (image[:, y, x] - torch.tensor(color)).abs().max() <= 4, (y, x)


def test_cmyk_jpeg(tmp_path):
    """No ink is white; full magenta and yellow are red; full black is black (r = (1 - c)(1 - k))."""
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): RED, (0, 0, 0, 255): (0, 0, 0)}
    for ink, color in inks.items():
        Image.new("CMYK", (16, 16), ink).save(tmp_path / "a.jpg", quality=95)
        image = read_image(tmp_path / "a.jpg", 8).int()
        assert (image[:, 4, 4] - torch.tensor(color)).abs().max() <= 2


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.repeat(np.array([0, 257, 100 * 257, 65535], dtype=np.uint16), 2)
    Image.fromarray(np.tile(levels, (8, 1))).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 8)
    assert image[:, 3, ::2].tolist() == [[0, 1, 100, 255]] * 3


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 90, 90), ("1", 1, 255), ("LA", (90, 255), 90)])
def test_grey_modes(tmp_path, mode, value, expected):
    Image.new(mode, (8, 8), value).save(tmp_path / "a.png")
    assert pixel(read_image(tmp_path / "a.png", 8)) == (expected,) * 3


@pytest.mark.parametrize(("width", "height"), [(96, 32), (32, 64), (32, 32)])
def test_short_side_is_resized_and_the_centre_kept(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = np.asarray(image.resize((width // 4, height // 4), Image.Resampling.LANCZOS)).copy()
    top, left = (height // 4 - 8) // 2, (width // 4 - 8) // 2
    expected = torch.from_numpy(whole[top : top + 8, left : left + 8]).permute(2, 0, 1)
    # The order of the two passes may differ, and with it the rounding.
    assert (fitted_tensor(image, (8, 8)).int() - expected.int()).abs().max() <= 1


def test_a_square_of_the_right_size_is_kept_to_the_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert torch.equal(fitted_tensor(Image.fromarray(pixels), (32, 32)), torch.from_numpy(pixels).permute(2, 0, 1))


def test_extreme_shape_costs_no_more_than_a_square():
    assert fitted_tensor(Image.new("RGB", (1, 60000), RED), (64, 64)).shape == (3, 64, 64)


@pytest.fixture(scope="module")
def noise():
    """As strong at every scale: far more fine detail than a photo has, where 2 of 255 is the most."""
    rng, sum_of_scales = np.random.default_rng(0), np.zeros((1499, 2000, 3))
    for width in (4, 16, 64, 250, 500, 1000, 2000):
        coarse = rng.integers(0, 256, (width * 3 // 4, width, 3), dtype=np.uint8)
        sum_of_scales += np.asarray(Image.fromarray(coarse).resize((2000, 1499), Image.Resampling.BICUBIC)) / 7
    return Image.fromarray(sum_of_scales.astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("tag", "sides"), [(1, (1499, 2000)), (6, (2000, 1499))])
def test_a_large_jpeg_comes_reduced_and_as_good(tmp_path, noise, mode, tag, sides):
    """187 of 1499 lines are kept, so that it can be decoded at a quarter."""
    exif = Image.Exif()
    exif[0x0112] = tag
    noise.convert(mode).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shape = (187, 187)
    image, found = decode_image(tmp_path / "a.jpg", [shape])
    assert found == sides and sorted(image.size) == [375, 500]
    whole = decode_image(tmp_path / "a.jpg", [(1400, 1400)])[0]
    assert sorted(whole.size) == [1499, 2000]
    difference = (fitted_tensor(image, shape).float() - fitted_tensor(whole, shape).float()).abs()
    assert difference.max() <= 10 and difference.mean() < 1.2


@pytest.mark.parametrize("progressive", [False, True])
def test_a_reduced_jpeg_hides_no_cut(tmp_path, progressive):
    path = tmp_path / "a.jpg"
    Image.effect_noise((256, 256), 50).convert("RGB").save(path, progressive=progressive)
    whole = path.read_bytes()
    assert decode_image(whole, [(1, 1)])[1] == (256, 256)
    for end in range(len(whole) // 50, len(whole), len(whole) // 50):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_image(whole[:end], [(1, 1)])


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp"])
@pytest.mark.parametrize(("tag", "sides"), [(3, (16, 40)), (6, (40, 16))])
def test_sides_are_those_of_the_upright_image(tmp_path, suffix, tag, sides):
    exif = Image.Exif()
    exif[0x0112] = tag
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (40, 16), RED).save(path, exif=exif)
    image, found = decode_image(path, [(16, 16)])
    assert found == sides and (image.height, image.width) == sides


def test_grey_of_32_bits_is_refused(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="cannot be decoded .32 bits a pixel"):
        read_image(tmp_path / "a.tif", 8)


def test_first_frame_of_a_gif(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in (GREEN, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(read_image(tmp_path / "a.gif", 8)) == GREEN


def test_random_damage_never_escapes_as_another_error(tmp_path):
    rng = random.Random(0)
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.avif"):
        path = tmp_path / name
        Image.effect_noise((24, 24), 50).convert("RGB").save(path)
        original = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(original)
            for _ in range(8):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            path.write_bytes(damaged)
            try:
                assert read_image(path, 8).shape == (3, 8, 8)
            except ValueError as error:
                assert str(error).startswith(("cannot be decoded", "not a PNG"))
