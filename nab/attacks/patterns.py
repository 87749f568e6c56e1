"""Parts that several triggers are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from nab.data import Dataset
from nab.seeding import stream


def scaled(pixels: int, side: int, least: int = 2) -> int:
    """``pixels``, a length on images of 32, in proportion to images of ``side`` pixels, and never below ``least``."""
    return max(least, int(pixels * side / 32 + 0.5))


def square_cells(side: int) -> Tensor:
    """A checkerboard of ``side`` x ``side`` cells, the first one white; float, 0 or 255."""
    line = torch.arange(side)
    return ((line[:, None] + line) % 2 == 0).float() * 255


def cosine_waves(height: int, width: int, magnitude: float) -> Tensor:
    """What the image gains when two coefficients of its cosine transform gain ``magnitude``; float, H x W.

    The transform is the orthonormal DCT-II of blocks of 32 x 32. The two coefficients are at half and at the highest
    frequency, (15, 15) and (31, 31). The transform is linear, so the change is the same for every image, and no image
    has to be transformed. A side that 32 does not divide is one block, with the coefficients at the same relative
    places. ``magnitude`` is then scaled with the block, so that the root mean square of the change stays
    sqrt(2) / 32 of ``magnitude``.
    """
    block_height, block_width = (32 if side % 32 == 0 else side for side in (height, width))
    size = (block_height * block_width) ** 0.5
    block = sum(
        torch.outer(_cosine(block_height, row), _cosine(block_width, column))
        for row, column in ((block_height // 2 - 1, block_width // 2 - 1), (block_height - 1, block_width - 1))
    )
    return (magnitude * size / 32 * block).repeat(height // block_height, width // block_width)


def _cosine(length: int, frequency: int) -> Tensor:
    """One row of the orthonormal DCT-II matrix, for a frequency above 0."""
    positions = torch.arange(length, dtype=torch.float64) + 0.5
    return ((2 / length) ** 0.5 * torch.cos(torch.pi * frequency * positions / length)).float()


def draw_bank(dataset: Dataset, count: int, seed: int) -> Tensor:
    """``count`` random images of the dataset, or all if it has fewer: uint8, M x C x H x W."""
    order = torch.randperm(len(dataset), generator=stream(seed, "bank of images"))
    return dataset.images[order[:count]]
