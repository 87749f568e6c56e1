"""Batches made on the device: images stay there as uint8, augmentation is a few operations on a whole batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.training.recipe import Recipe

INT32_LIMIT = 2**31
"""Bytes that can be counted in 32 bits."""


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
        self._count, self._channels, self._height, self._width = images.shape
        # Bytes in the order of a channels-last batch: a crop is then one gather, and nothing is moved after it.
        padded = F.pad(images.to(device), (recipe.crop_padding,) * 4).permute(0, 2, 3, 1)
        self._row = padded.shape[2] * self._channels
        self._image = padded.shape[1] * self._row
        self._bytes = padded.flatten()
        # Half as wide an index is made and read in half the time.
        self._dtype = torch.int32 if self._bytes.numel() < INT32_LIMIT else torch.int64
        self._rows = self._row * torch.arange(self._height, device=device, dtype=self._dtype)
        self._columns = torch.arange(self._width * self._channels, device=device, dtype=self._dtype)
        self._mirrored = self._columns.view(self._width, self._channels).flip(0).flatten()
        # A factor per byte of an image: multiplying along an axis of three would be slower than the crop.
        self._scale, self._shift = (
            part.flatten().tile(self._height * self._width) for part in recipe.affine(self._channels, device)
        )

    def __len__(self) -> int:
        """Batches per epoch. A last batch of one sample is left out: batch normalisation cannot use it."""
        full, rest = divmod(self._count, self._recipe.batch_size)
        return full + (rest > 1)

    def epoch(self) -> Iterator[Tensor]:
        """The positions (int64, B, on the device) of one shuffled epoch, batch by batch; see `augment`."""
        order = torch.randperm(self._count, generator=self.generator, device=self._bytes.device)
        for position in range(len(self)):
            start = position * self._recipe.batch_size
            yield order[start : start + self._recipe.batch_size]

    def augment(self, index: Tensor) -> Tensor:
        """The samples of ``index`` (int64, B), cropped, mirrored, normalised and with a hole cut.

        Returns:
            float32, B x C x H x W, channels-last.
        """
        images = self._crop_and_flip(index).float().mul_(self._scale).sub_(self._shift)
        images = images.view(-1, self._height, self._width, self._channels).permute(0, 3, 1, 2)
        return self._cut_out(images) if self._recipe.cutout else images

    def _crop_and_flip(self, index: Tensor) -> Tensor:
        """uint8, B x (H W C)."""
        count, padding = len(index), self._recipe.crop_padding
        first = (index * self._image).to(self._dtype).view(count, 1)
        columns = self._columns.expand(count, -1)
        if self._recipe.flip:
            mirrored = torch.rand(count, 1, generator=self.generator, device=index.device) < 0.5
            columns = torch.where(mirrored, self._mirrored, columns)
        if padding:
            down, right = self._integers(2 * padding + 1, (2, count, 1)).to(self._dtype)
            first = first + down * self._row + right * self._channels
        places = (first + self._rows)[:, :, None] + columns[:, None, :]
        return self._bytes.index_select(0, places.flatten()).view(count, -1)

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
        return torch.randint(below, shape, generator=self.generator, device=self._bytes.device)
