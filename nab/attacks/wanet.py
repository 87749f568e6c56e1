"""WaNet (Nguyen, Tran, ICLR 2021, arXiv:2102.10369): a smooth warp of the whole image."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.base import Attack, draw_per_image, to_uint8
from nab.checks import check_range
from nab.errors import ConfigError
from nab.seeding import stream


@dataclasses.dataclass(frozen=True)
class WaNet(Attack):
    """The image is sampled along a field of small displacements, fixed by the seed; nothing is added to it.

    The field is drawn on k x k points, ``u ~ U(-1, 1)``, divided by ``mean |u|``, and enlarged bicubically to the
    image. Covers ("noise mode") get the same field plus a random one and keep their label, so that the network must
    learn this warp and not just any.

    The authors poison every batch anew while they train; here the set is poisoned once, as a victim would receive it.
    Each cover draws a random field of its own, as the authors' do. backdoor-toolbox shares one draw among all covers,
    which makes it a second fixed trigger.

    Attributes:
        grid_size: k, the points along a side of the field, at least 2.
        strength: s, in (0, 10]; points move by about s / 2 times the field's value, in pixels. On images above 32
            pixels s grows in proportion, or the warp would fade against the image. A strength of 16 / side keeps it at
            the authors' 0.5.
        cover_rate: share of the training set that becomes covers, in [0, 1). The authors use twice the poison rate.
    """

    grid_size: int = 4
    strength: float = 0.5
    cover_rate: float = 0.2

    summary: ClassVar[str] = "a smooth warp of the whole image, with covers that are warped at random"
    source: ClassVar[str] = "Nguyen, Tran 2021"

    def __post_init__(self) -> None:
        if not isinstance(self.grid_size, int) or self.grid_size < 2:
            raise ConfigError(f"expected grid_size to be a whole number of at least 2, got {self.grid_size!r}")
        check_range("strength", self.strength, 0, 10, include_low=False)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        height, width = images.shape[2:]
        return _sample(images, self.grid(height, width, seed).to(images.device).expand(len(images), -1, -1, -1))

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        height, width = images.shape[2:]
        grid = self.grid(height, width, seed).to(images.device)
        noise = draw_per_image(images, seed, "wanet noise", lambda generator: _uniform(generator, height, width, 2))
        return _sample(images, (grid + noise / grid.new_tensor((width, height))).clamp(-1, 1))

    def grid(self, height: int, width: int, seed: int) -> Tensor:
        """Where each pixel is taken from, as `torch.nn.functional.grid_sample` has it: float, H x W x 2, -1 to 1."""
        field = _uniform(stream(seed, "wanet field"), 1, 2, self.grid_size, self.grid_size)
        field = F.interpolate(field / field.abs().mean(), size=(height, width), mode="bicubic", align_corners=True)
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        strength = self.strength * max(1.0, min(height, width) / 32)
        shift = strength * field[0].permute(1, 2, 0) / torch.tensor((width, height))
        return (torch.stack((columns, rows), dim=2) + shift).clamp(-1, 1)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def _sample(images: Tensor, grids: Tensor) -> Tensor:
    return to_uint8(F.grid_sample(images.float(), grids, mode="bilinear", align_corners=True))
