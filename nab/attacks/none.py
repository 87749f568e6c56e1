"""No attack: the clean training set, to see what a defense costs when nobody attacks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.attacks.base import Attack


@dataclasses.dataclass(frozen=True)
class NoAttack(Attack):
    """Poisons nothing. Attack success rate and robust accuracy are not defined then, and are left out of results."""

    summary: ClassVar[str] = "nobody attacks: shows what a defense costs then"
    source: ClassVar[str] = "baseline"
    plants: ClassVar[bool] = False

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        """The images as they are."""
        return images.clone()
