"""An attacker who knows NAB (ours): the patch lies where the defender's stamp does."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.attacks.base import Attack, to_uint8
from nab.attacks.patterns import square_cells
from nab.checks import check_positive
from nab.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Overlap(Attack):
    """A patch of black and white cells in the upper left corner, as on a checkerboard.

    What it shows: at test time every input is stamped, and the stamp of 2 x 2 pixels overwrites its part of the patch.
    A patch of 2 x 2 defeats itself; one of 3 x 3 keeps 5 of 9 pixels, one of 4 x 4 keeps 12 of 16. Compare the attack
    success rate over ``side`` from 2 to 5.

    Attributes:
        side: side of the patch in pixels, at least 1 and at most half the image.
    """

    side: int = 3

    summary: ClassVar[str] = "knows NAB: a patch under the defender's stamp"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        check_positive("side", self.side)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        half = min(images.shape[2:]) // 2
        if self.side > half:
            raise ConfigError(f"expected side of at most half the image ({half} pixels), got {self.side}")
        triggered = images.clone()
        triggered[:, :, : self.side, : self.side] = to_uint8(square_cells(self.side)).to(images.device)
        return triggered
