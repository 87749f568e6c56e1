"""Batches made on the device: images stay there as uint8, augmentation is a few operations on a whole batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.training.recipe import Recipe


class Batches:
    """An endless supply of shuffled, augmented, normalised epochs of one training set.

    Args:
        images: uint8, N x C x H x W.
        recipe: batch size and augmentation.
        device: where the images stay and the batches are made.
        generator: on ``device``; of the order and of the augmentation.
    """

    def __init__(self, images: Tensor, recipe: Recipe, device: torch.device, generator: torch.Generator) -> None:
        self._recipe = recipe
        self._generator = generator
        self._count, _, self._height, self._width = images.shape
        padding = recipe.crop_padding
        # One row per pixel: a crop is then a gather of rows, and a batch comes out in the channels-last layout.
        padded = F.pad(images.to(device), (padding,) * 4).permute(0, 2, 3, 1).contiguous()
        self._padded_height, self._padded_width = padded.shape[1:3]
        self._pixels = padded.flatten(0, 2)
        self._rows = torch.arange(self._height, device=device)
        self._columns = torch.arange(self._width, device=device)

    def __len__(self) -> int:
        """Batches per epoch. A last batch of one sample is left out: batch normalisation cannot use it."""
        full, rest = divmod(self._count, self._recipe.batch_size)
        return full + (rest > 1)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images (float32, B x C x H x W, normalised, channels-last) and positions (int64, B)."""
        order = torch.randperm(self._count, generator=self._generator, device=self._pixels.device)
        for position in range(len(self)):
            start = position * self._recipe.batch_size
            index = order[start : start + self._recipe.batch_size]
            yield self.augment(index), index

    def augment(self, index: Tensor) -> Tensor:
        """The samples of ``index`` (int64, B), cropped, mirrored, normalised and with a hole cut."""
        images = self._recipe.normalise(self._crop_and_flip(index).permute(0, 3, 1, 2))
        return self._cut_out(images) if self._recipe.cutout else images

    def _crop_and_flip(self, index: Tensor) -> Tensor:
        """uint8, B x H x W x C."""
        count, padding = len(index), self._recipe.crop_padding
        rows, columns = self._rows.expand(count, -1), self._columns.expand(count, -1)
        if self._recipe.flip:
            mirrored = torch.rand(count, 1, generator=self._generator, device=index.device) < 0.5
            columns = torch.where(mirrored, self._width - 1 - columns, columns)
        if padding:
            offsets = self._integers(2 * padding + 1, (2, count, 1))
            rows, columns = rows + offsets[0], columns + offsets[1]
        first = index * (self._padded_height * self._padded_width)
        pixel = (first[:, None] + rows * self._padded_width)[:, :, None] + columns[:, None, :]
        return self._pixels[pixel]

    def _cut_out(self, images: Tensor) -> Tensor:
        """Zeros, the mean colour, in a square around a random centre, clipped at the border (DeVries and Taylor,
        2017)."""
        half = self._recipe.cutout // 2
        count = len(images)
        in_rows = self._near(self._rows, self._integers(self._height, (count, 1)), half)
        in_columns = self._near(self._columns, self._integers(self._width, (count, 1)), half)
        hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        return images.masked_fill_(hole, 0.0)

    @staticmethod
    def _near(positions: Tensor, centres: Tensor, half: int) -> Tensor:
        return (positions >= centres - half) & (positions < centres + half)

    def _integers(self, below: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(below, shape, generator=self._generator, device=self._pixels.device)
