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

    The patches, on images of 32 pixels: 5 x 5 in the lower right corner; a disc of 13 x 13 at the upper right; a tile
    of 3 x 3 in each corner; 8 x 8 near the lower right corner. At test time the first one in both lower corners and
    the tiles over it, opaque. The authors' first two and the last are logos, which are not shipped; here they have
    random colours and a disc's shape. All grow and shrink with the image, except for the tiles; below 16 pixels, where
    the others would cover most of it, there are the tiles and the last patch alone.

    Which patch a sample shows is drawn for each by itself; the sources split the samples in four equal parts, by their
    position. backdoor-toolbox poisons 0.3 % and covers twice as many; BackdoorBox 1 % and 2 %, tests with the first
    patch in one corner only, and paints it over the tile.

    Attributes:
        opacities: of the four patches in training, each in (0, 1].
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
        colours = torch.stack([patches[index][0] for index in usable]).to(images.device)[kind]
        weights = torch.stack([patches[index][1] * self.opacities[index] for index in usable]).to(images.device)[kind]
        pixels = images.float()
        return to_uint8(pixels + weights * (colours - pixels))

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        logo, _, tiles, square = draw_patches(channels, height, width, seed)
        below = (logo, _at_the_left(logo)) if min(height, width) >= 16 else (square,)
        triggered = images.clone()
        for colours, where in (*below, tiles):
            triggered = torch.where(where.to(images.device) > 0, to_uint8(colours).to(images.device), triggered)
        return triggered


Patch = tuple[Tensor, Tensor]
"""Colours (float, C x H x W, 0 to 255) and where they lie (float, 1 x H x W, 0 or 1)."""


def draw_patches(channels: int, height: int, width: int, seed: int) -> tuple[Patch, Patch, Patch, Patch]:
    """The four patches for images of this size: logo at the lower right, disc, tiles, square near the lower right."""
    generator = stream(seed, "adap-patch colours")
    side = min(height, width)
    noise = torch.randint(0, 256, (3, channels, height, width), generator=generator).float()
    logo, square = torch.zeros(2, 1, height, width)
    logo_side = scaled(5, side)
    logo[:, -logo_side:, -logo_side:] = 1
    square_side, margin = scaled(8, side), scaled(3, side, least=1)
    square[:, -margin - square_side : -margin, -margin - square_side : -margin] = 1
    first, second = noise[1, :, 0, 0], noise[1, :, 0, 1]
    disc_colours, disc = _disc(height, width, first, second)
    return (noise[0], logo), (disc_colours, disc), _tiles(channels, height, width), (noise[2], square)


def _disc(height: int, width: int, inner: Tensor, outer: Tensor) -> Patch:
    """A disc at the upper right whose colour passes from ``inner`` to ``outer`` (C each)."""
    side = min(height, width)
    diameter, margin = scaled(13, side), scaled(1, side, least=1)
    rows = torch.arange(height)[:, None] - (margin + (diameter - 1) / 2)
    columns = torch.arange(width) - (width - 1 - margin - (diameter - 1) / 2)
    distance = (rows**2 + columns**2).sqrt() / (diameter / 2)
    mixture = distance.clamp(max=1)
    colours = inner[:, None, None] * (1 - mixture) + outer[:, None, None] * mixture
    return colours, (distance <= 1).float()[None]


def _tiles(channels: int, height: int, width: int) -> Patch:
    """The BadNets patch of NAB in the right corners, its mirror image in the left ones."""
    cells = corner_cells(height, width, "mirrored")
    return (cells > 0).float().mul(255).expand(channels, -1, -1), (cells != 0).float()[None]


def _at_the_left(patch: Patch) -> Patch:
    """A patch that touches the right border, moved (not mirrored) to the left one."""
    colours, where = patch
    side = int(where[0].any(0).sum())
    return colours.roll(side, dims=2), where.roll(side, dims=2)
