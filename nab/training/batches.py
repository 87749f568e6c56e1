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
        self.generator = generator
        self._count, _, self._height, self._width = images.shape
        padding = recipe.crop_padding
        # One entry per pixel: a crop is then a gather, and a batch comes out in the channels-last layout.
        padded = F.pad(images.to(device), (padding,) * 4).permute(0, 2, 3, 1)
        self._padded_height, self._padded_width, self._channels = padded.shape[1:]
        self._pixels = _packed(padded)
        self._rows = torch.arange(self._height, device=device)
        self._columns = torch.arange(self._width, device=device)

    def __len__(self) -> int:
        """Batches per epoch. A last batch of one sample is left out: batch normalisation cannot use it."""
        full, rest = divmod(self._count, self._recipe.batch_size)
        return full + (rest > 1)

    def epoch(self) -> Iterator[Tensor]:
        """The positions (int64, B, on the device) of one shuffled epoch, batch by batch; see `augment`."""
        order = torch.randperm(self._count, generator=self.generator, device=self._pixels.device)
        for position in range(len(self)):
            start = position * self._recipe.batch_size
            yield order[start : start + self._recipe.batch_size]

    def augment(self, index: Tensor) -> Tensor:
        """The samples of ``index`` (int64, B), cropped, mirrored, normalised and with a hole cut.

        Returns:
            float32, B x C x H x W, channels-last.
        """
        images = self._recipe.normalise(self._crop_and_flip(index).permute(0, 3, 1, 2))
        return self._cut_out(images) if self._recipe.cutout else images

    def _crop_and_flip(self, index: Tensor) -> Tensor:
        """uint8, B x H x W x C."""
        count, padding = len(index), self._recipe.crop_padding
        rows, columns = self._rows.expand(count, -1), self._columns.expand(count, -1)
        if self._recipe.flip:
            mirrored = torch.rand(count, 1, generator=self.generator, device=index.device) < 0.5
            columns = torch.where(mirrored, self._width - 1 - columns, columns)
        if padding:
            offsets = self._integers(2 * padding + 1, (2, count, 1))
            rows, columns = rows + offsets[0], columns + offsets[1]
        first = index * (self._padded_height * self._padded_width)
        pixel = (first[:, None] + rows * self._padded_width)[:, :, None] + columns[:, None, :]
        words = self._pixels.index_select(0, pixel.flatten())
        return words.view(torch.uint8).view(count, self._height, self._width, -1)[..., : self._channels]

    def _cut_out(self, images: Tensor) -> Tensor:
        """Zeros, the mean colour, in a square around a random centre, clipped at the border (DeVries and Taylor,
        2017)."""
        half, count = self._recipe.cutout // 2, len(images)
        reach = torch.arange(-half, half, device=images.device)
        # A position beyond the border is moved onto it, which lies in the hole as well.
        rows = (self._integers(self._height, (count, 1)) + reach).clamp(0, self._height - 1)
        columns = (self._integers(self._width, (count, 1)) + reach).clamp(0, self._width - 1)
        first = torch.arange(count, device=images.device)[:, None, None] * self._height
        hole = (first + rows[:, :, None]) * self._width + columns[:, None, :]
        images.permute(0, 2, 3, 1).view(-1, self._channels).index_fill_(0, hole.flatten(), 0.0)
        return images

    def _integers(self, below: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(below, shape, generator=self.generator, device=self._pixels.device)


def _packed(pixels: Tensor) -> Tensor:
    """Pixels (uint8, N x H x W x C) in one row of N H W entries: bytes if grey; red, green, blue and a zero as int32.

    A gather moves an int32 as fast as a byte, so this halves the time of a crop.
    """
    if pixels.shape[3] == 1:
        return pixels.flatten()
    return F.pad(pixels, (0, 1)).contiguous().view(torch.int32).flatten()
