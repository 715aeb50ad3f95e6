"""Tensors as pictures, and pictures as PNG files."""

import io

import torch
from PIL import Image
from torch import Tensor


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 [N, 3, H, W] -> one picture, row by row, white where N does not fill the last row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    grid[:count] = images
    tiled = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(tiled.reshape(rows * height, columns * width, 3).numpy())


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def to_picture(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
