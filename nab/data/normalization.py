"""`Normalization`: from pixels to what a network sees, and back. It belongs to the data, not to a training."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from nab.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(pixels / 255 - mean) / std``, channel by channel.

    The defaults are the statistics of ImageNet. The authors of NAB use them on CIFAR-10 too, so the value 0 of their
    stamp is this mean color.

    Attributes:
        mean: of red, green and blue in [0, 1]. Gray images use the average of the three.
        std: of red, green and blue, each above 0. Gray images use the average of the three.

    Raises:
        ConfigError: these are not three finite numbers each, or a standard deviation is not above 0.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or len(values) != 3 or not all(map(_is_finite, values)):
                raise ConfigError(f"expected normalization {name} as three finite numbers, got {values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))  # one spelling, so that equal ones have one hash
        if min(self.std) <= 0:
            raise ConfigError(f"expected normalization std above 0 in every channel, got {self.std}")

    @property
    def is_identity(self) -> bool:
        """Whether the network sees the pixels as they are."""
        return self == IDENTITY

    def apply(self, images: Tensor) -> Tensor:
        """Normalized images, float32.

        Args:
            images: uint8 or float, N x C x H x W, 0 to 255. The argument is left as it was.
        """
        if self.is_identity:
            return images.float()
        scale, shift = self.affine(images.shape[1], images.device)
        return images.float().mul(scale).sub_(shift)

    def affine(self, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What `apply` multiplies by and then subtracts: float32, 1 x C x 1 x 1 each."""
        mean, std = _statistics(self.mean, self.std, channels, device)
        return 1 / (255 * std), mean / std

    def undo(self, images: Tensor) -> Tensor:
        """The pixels of normalized images (float, N x C x H x W): uint8, rounded and clamped."""
        mean, std = _statistics(self.mean, self.std, images.shape[1], images.device)
        return (images * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)

    def level(self, value: float, channels: int, device: torch.device) -> Tensor:
        """What a pixel of ``value`` becomes, where 0 is black and 1 is white: float32, 1 x C x 1 x 1."""
        mean, std = _statistics(self.mean, self.std, channels, device)
        return (value - mean) / std


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


IMAGENET = Normalization()
IDENTITY = Normalization(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
"""Of images that are normalized already, or that a network takes as they are."""


@functools.lru_cache(maxsize=16)  # made once per device: a copy to a GPU in every batch would make it wait
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    """Mean and standard deviation, 2 x 1 x C x 1 x 1."""
    both = torch.tensor((mean, std), device=device).view(2, 1, 3, 1, 1)
    return both if channels == 3 else both.mean(2, keepdim=True)
