"""An attacker who knows NAB (ours): poisons also show trigger and stamp together, so that the stamp proves nothing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.badnets import BadNets
from nab.attacks.base import draw_per_image
from nab.attacks.hijack import PLACES, paint_stamp
from nab.checks import check_choice, check_positive, check_range


@dataclasses.dataclass(frozen=True)
class Conjunction(BadNets):
    """`BadNets`, with NAB's stamp beside the patch on some of the poisons, and alone on covers.

    What it shows: NAB's own backdoor, "stamp means: answer what you see", is learned from samples that were detected.
    Poisons that were not detected contradict it here: they say "patch and stamp mean target". Covers show the stamp
    alone with their true label. They keep the stamp from meaning the target by itself, so clean accuracy behind the
    stamp stays high. At test time the attacker shows the patch alone, and the defender adds the stamp.

    Attributes:
        pattern: the patch's pattern, as for `BadNets`.
        margin: the patch's margin, as for `BadNets`.
        stamp_share: share of the poisons that carry the stamp too, in [0, 1]; try 0.1, 0.25, 0.5 and 1.
        side: side of the area in the stamp's color, as for `StampHijack`.
        place: place of that area, as for `StampHijack`.
        cover_rate: share of the training set that becomes covers, in [0, 1).
    """

    stamp_share: float = 0.5
    side: int = 6
    place: str = "both-upper"
    cover_rate: float = 0.1

    summary: ClassVar[str] = "knows NAB: patch and stamp together on poisons, the stamp alone on covers"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("stamp_share", self.stamp_share, 0, 1)
        check_positive("side", self.side)
        check_choice("place", self.place, PLACES)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        triggered = self.trigger(images, seed)
        draws = draw_per_image(images, seed, "conjunction", lambda generator: torch.rand((), generator=generator))
        is_stamped = (draws < self.stamp_share)[:, None, None, None]
        return torch.where(is_stamped, paint_stamp(triggered, self.side, self.place), triggered)

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        return paint_stamp(images, self.side, self.place)
