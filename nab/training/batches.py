"""Batches made on the device: images stay there as uint8, augmentation is a few operations on a whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.data import Dataset
from nab.errors import ConfigError
from nab.training.recipe import Recipe

INT32_LIMIT = 2**31
"""Bytes that can be counted in 32 bits."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """What a step is computed from.

    Attributes:
        images: on the device; float32, B x C x H x W, augmented and normalized, from `Batches`; B x ..., the rows as
            they are, from `RawBatches`.
        labels: int64, B, on the device.
        positions: int64, B, on the device; the samples' places in the training set.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


class BatchSource(Protocol):
    """What a training reads: epochs of positions, and the batch that belongs to them.

    Attributes:
        generator: on the device; gives the order and whatever else is random about a batch.
        batch_size: samples of every batch but the last one of an epoch.
    """

    generator: torch.Generator
    batch_size: int

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self) -> Iterator[Tensor]:
        """The positions (int64, B, on the device) of one epoch, batch by batch."""
        ...

    def batch(self, positions: Tensor) -> Batch:
        """The samples at ``positions``."""
        ...


class _Shuffled:
    """Positions in a random order. A last batch of one sample is left out: batch normalization cannot use it."""

    def __init__(self, labels: Tensor, batch_size: int, generator: torch.Generator, *, drop_last: bool) -> None:
        self.generator = generator
        self.batch_size = min(batch_size, len(labels)) if drop_last else batch_size
        self._labels = labels.to(generator.device)
        self._drops_last = drop_last

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self._labels), self.batch_size)
        if self._drops_last:
            return full if self.batch_size > 1 else 0
        return full + (rest > 1)

    def epoch(self) -> Iterator[Tensor]:
        """The positions (int64, B, on the device) of one shuffled epoch, batch by batch."""
        order = torch.randperm(len(self._labels), generator=self.generator, device=self.generator.device)
        return iter(order.split(self.batch_size)[: len(self)])


class Batches(_Shuffled):
    """An endless supply of shuffled, augmented, normalized epochs of one training set.

    Args:
        dataset: images, labels and normalization.
        recipe: batch size and augmentation.
        device: where the images stay and the batches are made.
        generator: on ``device``; gives the order and the augmentation.
        drop_last: whether samples that do not fill a batch are left out of their epoch; a set smaller than a batch is
            one batch. If not, only a last batch of one sample is left out.

    Raises:
        ConfigError: the crop's padding is larger than an image.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        device: torch.device,
        generator: torch.Generator,
        *,
        drop_last: bool = False,
    ) -> None:
        super().__init__(dataset.labels, recipe.batch_size, generator, drop_last=drop_last)
        images = dataset.images
        self._recipe = recipe
        self._channels, self._height, self._width = images.shape[1:]
        if recipe.crop_padding > min(self._height, self._width):
            raise ConfigError(
                f"expected crop_padding of at most the image's {min(self._height, self._width)} pixels, "
                f"got {recipe.crop_padding}"
            )
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
            part.flatten().tile(self._height * self._width)
            for part in dataset.normalization.affine(self._channels, device)
        )

    def batch(self, positions: Tensor) -> Batch:
        """The samples at ``positions`` (int64, B), their images as `augment` makes them."""
        return Batch(self.augment(positions), self._labels[positions], positions)

    def augment(self, index: Tensor) -> Tensor:
        """The images at ``index`` (int64, B), cropped, mirrored, normalized and with a hole cut.

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
        """Zeros, the mean color, in a square around a random center, clipped at the border (DeVries and Taylor,
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


class RawBatches(_Shuffled):
    """Shuffled epochs of any tensor with a row per sample, such as pixels or features, as they are.

    Args:
        rows: N x ..., moved to the device.
        labels: int64, N, moved to the device.
        batch_size: samples per batch.
        generator: on the device; gives the order.
        drop_last: as for `Batches`.
    """

    def __init__(
        self, rows: Tensor, labels: Tensor, batch_size: int, generator: torch.Generator, *, drop_last: bool = False
    ) -> None:
        super().__init__(labels, batch_size, generator, drop_last=drop_last)
        self._rows = rows.to(generator.device)

    def batch(self, positions: Tensor) -> Batch:
        """The rows and labels at ``positions`` (int64, B)."""
        return Batch(self._rows[positions], self._labels[positions], positions)
