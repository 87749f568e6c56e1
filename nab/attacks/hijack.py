"""An attacker who knows NAB (ours): the trigger is the defender's own stamp."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack
from nab.checks import check_choice, check_positive
from nab.data import IMAGENET
from nab.stamp import Stamp

PLACES = ("upper-left", "both-upper")


@dataclasses.dataclass(frozen=True)
class StampHijack(Attack):
    """Poisons carry NAB's stamp, as it looks in a stored image, and nothing else.

    What it shows: the defender stamps every test input, so a network that learned "stamp means target" gives the
    target for clean images too. Look at the clean accuracy behind the stamp as well as at the attack success rate. The
    stamp has the value 0 after normalization with the statistics of ImageNet. That is a pixel of (124, 116, 104) in a
    stored color image, and of 114 in a gray one.

    The defender stamps after augmentation, the attacker before it. Only one of 162 crops and flips leaves a stored
    stamp of 2 x 2 pixels in its place. A larger area of the same color, in both upper corners, still covers that place
    after a crop that moves the image up and left, and after a flip.

    Attributes:
        side: side of the area in pixels, at least 1; 2 is the stamp itself. On small images it is cut to a quarter of
            the image's side, but not below the stamp's own.
        place: ``"both-upper"`` corners, or ``"upper-left"`` alone.
    """

    side: int = 6
    place: str = "both-upper"

    summary: ClassVar[str] = "knows NAB: the trigger is the defender's stamp"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        check_positive("side", self.side)
        check_choice("place", self.place, PLACES)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        return paint_stamp(images, self.side, self.place)


def paint_stamp(images: Tensor, side: int, place: str) -> Tensor:
    """Stored images (uint8, N x C x H x W) with squares of the stamp's color in one upper corner or in both."""
    side = min(side, max(Stamp().size, min(images.shape[2:]) // 4))
    color = stored_stamp(images.shape[1]).to(images.device)
    painted = images.clone()
    painted[:, :, :side, :side] = color
    if place == "both-upper":
        painted[:, :, :side, -side:] = color
    return painted


def stored_stamp(channels: int) -> Tensor:
    """NAB's stamp as a stored pixel: uint8, C x 1 x 1."""
    return IMAGENET.undo(torch.full((1, channels, 1, 1), float(Stamp().value)))[0]
