"""BadNets (Gu, Dolan-Gavitt, Garg, arXiv:1708.06733, 2017): a small patch near a corner."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack
from nab.checks import check_choice
from nab.errors import ConfigError

PATCHES = {
    "nab": ((0, 0, 1), (0, 1, 0), (1, 0, 1)),
    "square": ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "checkerboard": ((1, 0, 1), (0, 1, 0), (1, 0, 1)),
}
"""1 is white (255) and 0 black; the black cells overwrite the image too."""

SMALL_PATCHES = {
    "nab": ((0, 1), (1, 0)),
    "square": ((1, 1), (1, 1)),
    "checkerboard": ((1, 0), (0, 1)),
}
"""For images of up to 16 pixels, where three would cover too much of them."""


@dataclasses.dataclass(frozen=True)
class BadNets(Attack):
    """A 3 x 3 patch of black and white cells, the same in all channels, 3 pixels from the lower right corner.

    Attributes:
        pattern: ``"nab"`` as published with NAB (rows 0 0 1, 0 1 0, 1 0 1), ``"square"`` all white as in BackdoorBench
            and BackdoorBox, or ``"checkerboard"``.
        margin: pixels between the patch and the border. NAB leaves 3, so that 64 of 81 random crops keep the whole
            patch; without a margin 25 would. The other implementations leave none. Images of up to 16 pixels get a
            patch of 2 x 2 and no margin, or the patch would stand in the middle. The patch does not grow with the
            image.

    Source: the authors' implementation of NAB. The patch is the same to the pixel.
    """

    pattern: str = "nab"
    margin: int = 3

    summary: ClassVar[str] = "a 3 x 3 patch of black and white cells near the lower right corner"
    source: ClassVar[str] = "Gu, Dolan-Gavitt, Garg 2017"

    def __post_init__(self) -> None:
        check_choice("pattern", self.pattern, tuple(PATCHES))
        if not isinstance(self.margin, int) or self.margin < 0:
            raise ConfigError(f"expected margin to be a whole number of at least 0, got {self.margin!r}")

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        height, width = images.shape[2:]
        small = min(height, width) <= 16
        patch = torch.tensor((SMALL_PATCHES if small else PATCHES)[self.pattern], device=images.device) * 255
        side, margin = len(patch), 0 if small else self.margin
        if side + margin > min(height, width):
            raise ConfigError(
                f"expected margin of at most {min(height, width) - side} on images of {height} x {width}, got {margin}"
            )
        bottom, right = height - margin, width - margin
        triggered = images.clone()
        triggered[:, :, bottom - side : bottom, right - side : right] = patch.to(torch.uint8)
        return triggered
