"""The stamp: the defender's own trigger, written into a batch just before the network sees it.

Source: the authors' implementation of NAB. It sets 2 x 2 pixels in the upper left corner to 0, in all channels. This
comes after normalization, so that 0 is the mean color of ImageNet, a gray; and after crop, flip and cutout, so that the
stamp never moves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from nab.checks import check_choice, check_positive
from nab.data import Normalization
from nab.errors import ConfigError

SPACES = ("normalized", "pixel")
CORNERS = ("upper-left", "upper-right", "lower-left", "lower-right")


@dataclasses.dataclass(frozen=True)
class Stamp:
    """A square of one value in a corner.

    Attributes:
        size: side in pixels.
        corner: which corner it fills.
        value: what is written in all channels, finite. As a normalized value with the statistics of ImageNet, 0 is the
            mean color and about 2.5 is white. As a pixel, 0 is black and 1 is white; no image of 8 bits can hold 2.
        space: ``"normalized"`` or ``"pixel"``, what ``value`` is.
    """

    size: int = 2
    corner: str = "upper-left"
    value: float = 0.0
    space: str = "normalized"

    def __post_init__(self) -> None:
        check_choice("stamp space", self.space, SPACES)
        check_positive("stamp size", self.size)
        check_choice("stamp corner", self.corner, CORNERS)
        if not isinstance(self.value, int | float) or not abs(self.value) < float("inf"):
            raise ConfigError(f"expected stamp value as a finite number, got {self.value!r}")

    def check(self, images: Tensor) -> None:
        """Raise ``ConfigError`` if the stamp is larger than half of the images (N x C x H x W)."""
        side = min(images.shape[2:])
        if 2 * self.size > side:
            raise ConfigError(f"expected a stamp of at most half the image ({side // 2} pixels), got {self.size}")

    def on(self, normalization: Normalization) -> Callable[[Tensor], Tensor]:
        """`apply` for all images that went through a normalization."""
        return functools.partial(self.apply, normalization=normalization)

    def apply(
        self, images: Tensor, where: Tensor | None = None, *, normalization: Normalization | None = None
    ) -> Tensor:
        """The images with the stamp; the argument is left as it was.

        Args:
            images: float, N x C x H x W, normalized.
            where: bool, N; who gets the stamp. All images get it by default.
            normalization: what the images went through; a value in pixel space cannot do without it.

        Raises:
            ConfigError: the stamp is larger than half an image, or the normalization is missing.
        """
        self.check(images)
        height, width = images.shape[2:]
        vertical, horizontal = self.corner.split("-")
        rows = slice(0, self.size) if vertical == "upper" else slice(height - self.size, height)
        columns = slice(0, self.size) if horizontal == "left" else slice(width - self.size, width)
        stamped = images.clone()
        region = stamped[:, :, rows, columns]
        chosen = torch.ones((), dtype=torch.bool, device=images.device) if where is None else where[:, None, None, None]
        if self.space == "normalized":
            region.masked_fill_(chosen, self.value)  # boolean indexing would make a GPU wait for the count
        elif normalization is None:
            raise ConfigError("a stamp whose value is a pixel's needs the images' normalization")
        else:
            level = normalization.level(self.value, images.shape[1], images.device)
            region.copy_(torch.where(chosen, level, region))
        return stamped
