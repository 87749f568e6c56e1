"""Adap-Blend (Qi, Xie, Li, Mahloujifar, Mittal, ICLR 2023): half the pieces of a blended picture, with covers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import draw_per_image, to_uint8
from nab.attacks.blend import Blend
from nab.checks import check_positive, check_range
from nab.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class AdapBlend(Blend):
    """`Blend` against detectors: poisons show parts of the pattern faintly, and so do covers with true labels.

    The pattern is cut into ``grid_size`` x ``grid_size`` pieces. Each poison and each cover shows a random half of
    them. At test time the whole pattern is shown, and more strongly, so the backdoor answers more surely than the
    training images suggest. backdoor-toolbox poisons 0.3 % of the set, an earlier release 0.5 %, and covers as many.

    Attributes:
        alpha: share of the pattern in training images, in (0, 1].
        pattern: as for `Blend`. The authors use a picture that is not shipped.
        picture: as for `Blend`.
        test_alpha: share of the pattern at test time, in (0, 1].
        grid_size: pieces along a side, at least 2.
        mask_rate: share of the pieces that are hidden, in (0, 1).
        cover_rate: share of the training set that becomes covers, in [0, 1).
    """

    alpha: float = 0.15
    test_alpha: float = 0.2
    grid_size: int = 4
    mask_rate: float = 0.5
    cover_rate: float = 0.003

    summary: ClassVar[str] = "a blended picture, in training faint and in pieces, with covers"
    source: ClassVar[str] = "Qi et al. 2023"
    usual_rate: ClassVar[float] = 0.003
    allows_all_to_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("test_alpha", self.test_alpha, 0, 1, include_low=False)
        check_positive("grid_size", self.grid_size)
        check_range("mask_rate", self.mask_rate, 0, 1, include_low=False, include_high=False)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)
        if not 0 < self._hidden_pieces < self.grid_size**2:
            raise ConfigError(
                f"expected mask_rate to hide some of the {self.grid_size**2} pieces and show others, "
                f"got {self.mask_rate}, which hides {self._hidden_pieces}"
            )

    @property
    def _hidden_pieces(self) -> int:
        return int(self.mask_rate * self.grid_size**2 + 0.5)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        pattern = self.draw(images.shape[1], images.shape[2], images.shape[3], seed).to(images.device)
        return to_uint8((1 - self.test_alpha) * images.float() + self.test_alpha * pattern)

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        pattern = self.draw(images.shape[1], images.shape[2], images.shape[3], seed).to(images.device)
        pixels = images.float()
        return to_uint8(pixels + self.alpha * self.visible(images, seed) * (pattern - pixels))

    def visible(self, images: Tensor, seed: int) -> Tensor:
        """Where each training image shows the pattern: bool, N x 1 x H x W."""
        height, width = images.shape[2:]
        if self.grid_size > min(height, width):
            raise ConfigError(f"expected grid_size of at most {min(height, width)}, got {self.grid_size}")
        pieces = draw_per_image(
            images,
            seed,
            "adap-blend pieces",
            lambda generator: torch.randperm(self.grid_size**2, generator=generator) >= self._hidden_pieces,
        ).view(-1, 1, self.grid_size, self.grid_size)
        rows = torch.arange(height, device=images.device) * self.grid_size // height
        columns = torch.arange(width, device=images.device) * self.grid_size // width
        return pieces[:, :, rows][:, :, :, columns]
