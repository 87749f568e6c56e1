"""Adap-Patch (Qi, Xie, Li, Mahloujifar, Mittal, ICLR 2023): one of four faint patches per poison, two at test time."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack, draw_per_image, to_uint8
from nab.attacks.label_consistent import corner_cells
from nab.attacks.patterns import scaled
from nab.checks import check_range
from nab.errors import ConfigError
from nab.seeding import stream


@dataclasses.dataclass(frozen=True)
class AdapPatch(Attack):
    """Patches against detectors: every poison and cover shows one of four, half transparent; covers keep their label.

    On images of 32 pixels the patches are: a logo of 5 x 5 in the lower right corner; a disc of 13 x 13 at the upper
    right; tiles of 3 x 3 in all four corners; a square of 8 x 8 near the lower right corner. The lower right tile is
    NAB's patch, and the others are its mirror images, as in backdoor-toolbox. At test time the logo is in both lower
    corners and the tiles lie over it, all opaque.

    The authors' first two patches and the last one are pictures that are not shipped; here random colors and a disc
    stand in for them. All patches but the tiles grow and shrink with the image. Below 16 pixels the logo and the disc
    would cover most of it, so only the tiles and the square are used.

    Each sample draws its patch by itself; the sources split the samples in four equal parts, by their position.
    backdoor-toolbox poisons 0.3 % and covers twice as many. BackdoorBox poisons 1 % and covers 2 %; it tests with the
    logo in one corner only, and paints it over the tile.

    Attributes:
        opacities: share of each of the four patches in training images, in (0, 1].
        cover_rate: share of the training set that becomes covers, in [0, 1).
    """

    opacities: tuple[float, float, float, float] = (0.5, 0.2, 0.5, 0.3)
    cover_rate: float = 0.006

    summary: ClassVar[str] = "one of four faint patches, at test time two strong ones, with covers"
    source: ClassVar[str] = "Qi et al. 2023"
    usual_rate: ClassVar[float] = 0.003
    allows_all_to_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.opacities) != 4:
            raise ConfigError(f"expected four opacities, one for each patch, got {self.opacities!r}")
        for opacity in self.opacities:
            check_range("opacities", opacity, 0, 1, include_low=False)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        patches = draw_patches(channels, height, width, seed)
        usable = [0, 1, 2, 3] if min(height, width) >= 16 else [2, 3]
        kind = draw_per_image(
            images, seed, "adap-patch kind", lambda generator: torch.randint(len(usable), (), generator=generator)
        )
        colors = torch.stack([patches[index][0] for index in usable]).to(images.device)[kind]
        weights = torch.stack([patches[index][1] * self.opacities[index] for index in usable]).to(images.device)[kind]
        pixels = images.float()
        return to_uint8(pixels + weights * (colors - pixels))

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        logo, _, tiles, square = draw_patches(channels, height, width, seed)
        below = (logo, _at_the_left(logo)) if min(height, width) >= 16 else (square,)
        triggered = images.clone()
        for colors, where in (*below, tiles):
            triggered = torch.where(where.to(images.device) > 0, to_uint8(colors).to(images.device), triggered)
        return triggered


Patch = tuple[Tensor, Tensor]
"""Colors (float, C x H x W, 0 to 255) and where they lie (float, 1 x H x W, 0 or 1)."""


def draw_patches(channels: int, height: int, width: int, seed: int) -> tuple[Patch, Patch, Patch, Patch]:
    """The four patches for images of this size: logo at the lower right, disc, tiles, square near the lower right."""
    generator = stream(seed, "adap-patch colors")
    side = min(height, width)
    noise = torch.randint(0, 256, (3, channels, height, width), generator=generator).float()
    logo, square = torch.zeros(2, 1, height, width)
    logo_side = scaled(5, side)
    logo[:, -logo_side:, -logo_side:] = 1
    square_side, margin = scaled(8, side), scaled(3, side, least=1)
    square[:, -margin - square_side : -margin, -margin - square_side : -margin] = 1
    first, second = noise[1, :, 0, 0], noise[1, :, 0, 1]
    disc_colors, disc = _disc(height, width, first, second)
    return (noise[0], logo), (disc_colors, disc), _tiles(channels, height, width), (noise[2], square)


def _disc(height: int, width: int, inner: Tensor, outer: Tensor) -> Patch:
    """A disc at the upper right whose color passes from ``inner`` to ``outer`` (C each)."""
    side = min(height, width)
    diameter, margin = scaled(13, side), scaled(1, side, least=1)
    rows = torch.arange(height)[:, None] - (margin + (diameter - 1) / 2)
    columns = torch.arange(width) - (width - 1 - margin - (diameter - 1) / 2)
    distance = (rows**2 + columns**2).sqrt() / (diameter / 2)
    mixture = distance.clamp(max=1)
    colors = inner[:, None, None] * (1 - mixture) + outer[:, None, None] * mixture
    return colors, (distance <= 1).float()[None]


def _tiles(channels: int, height: int, width: int) -> Patch:
    """The BadNets patch of NAB in the lower right corner, its mirror images in the others."""
    cells = corner_cells(height, width, "single")
    cells = cells + cells.flip(1)
    cells = cells + cells.flip(0)
    return (cells > 0).float().mul(255).expand(channels, -1, -1), (cells != 0).float()[None]


def _at_the_left(patch: Patch) -> Patch:
    """A patch that touches the right border, moved (not mirrored) to the left one."""
    colors, where = patch
    side = int(where[0].any(0).sum())
    return colors.roll(side, dims=2), where.roll(side, dims=2)
