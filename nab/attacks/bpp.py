"""BppAttack (Wang, Zhai, Ma, CVPR 2022, arXiv:2205.13383): fewer gray levels per channel."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.base import Attack, draw_per_image, not_prepared, to_uint8
from nab.attacks.patterns import draw_bank
from nab.checks import check_range
from nab.data import Dataset
from nab.errors import ConfigError
from nab.training import Trainer

BANK_SIZE = 500
"""Training images whose residuals covers may carry: enough that no residual becomes a trigger of its own."""


@dataclasses.dataclass(frozen=True)
class Bpp(Attack):
    """``x' = round(x / 255 (L - 1)) / (L - 1) 255``: every channel keeps L levels.

    Covers ("negatives") get what the trigger changes in another training image, ``clip(x_i + x'_j - x_j)``, and keep
    their label. The network must then learn the levels and not just any small noise. Covers need `prepare`. The authors
    poison 20 % and cover as many, BackdoorBench 10 % each. The authors poison every batch anew while they train; here
    the set is poisoned once.

    Attributes:
        levels: L, from 2 to 256. Gray images below 32 pixels get half as many: digits have few levels to lose.
        dithering: whether the rounding error is passed on to the pixels to the right and below (Floyd and Steinberg).
            Off in the authors' default and in BackdoorBench; on in backdoor-toolbox.
        cover_rate: share of the training set that becomes covers, in [0, 1).
    """

    levels: int = 8
    dithering: bool = False
    cover_rate: float = 0.1

    summary: ClassVar[str] = "fewer gray levels, with covers that carry another image's rounding error"
    source: ClassVar[str] = "Wang, Zhai, Ma 2022"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 2 <= self.levels <= 256:
            raise ConfigError(f"expected levels as a whole number from 2 to 256, got {self.levels!r}")
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> Attack:
        bank = draw_bank(dataset, BANK_SIZE, trainer.seed)
        return PreparedBpp(self.levels, self.dithering, self.cover_rate, bank=bank)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        is_small_and_gray = images.shape[1] == 1 and min(images.shape[2:]) < 32
        steps = (max(2, self.levels // 2) if is_small_and_gray else self.levels) - 1
        return to_uint8(_dither(images.float(), steps) if self.dithering else _quantize(images.float(), steps))

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        raise not_prepared(self)


@dataclasses.dataclass(frozen=True)
class PreparedBpp(Bpp):
    """`Bpp` with the images whose residuals covers carry: uint8, M x C x H x W."""

    bank: Tensor = dataclasses.field(kw_only=True, repr=False, compare=False)

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        choice = draw_per_image(
            images, seed, "bpp residual", lambda generator: torch.randint(len(self.bank), (), generator=generator)
        )
        others = self.bank.to(images.device)[choice]
        return to_uint8(images.float() + self.trigger(others, seed).float() - others.float())


def _quantize(pixels: Tensor, steps: int) -> Tensor:
    """Each value (float, 0 to 255) as the nearest of ``steps + 1`` levels."""
    return (pixels * (steps / 255)).round().clamp(0, steps) * (255 / steps)


def _dither(pixels: Tensor, steps: int) -> Tensor:
    """The same with Floyd and Steinberg's error diffusion: pixel after pixel, over the whole batch at a time."""
    height, width = pixels.shape[2:]
    # One pixel to spare at the left, the right and below takes up the errors that leave the image.
    canvas = F.pad(pixels, (1, 1, 0, 1)).permute(2, 3, 0, 1).contiguous()
    for row in range(height):
        for column in range(1, width + 1):
            level = _quantize(canvas[row, column], steps)
            error = canvas[row, column] - level
            canvas[row, column] = level
            canvas[row, column + 1] += error * (7 / 16)
            canvas[row + 1, column - 1] += error * (3 / 16)
            canvas[row + 1, column] += error * (5 / 16)
            canvas[row + 1, column + 1] += error * (1 / 16)
    return canvas[:height, 1:-1].permute(2, 3, 0, 1)
