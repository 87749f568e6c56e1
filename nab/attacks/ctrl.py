"""CTRL (Li, Pang, Xi, Du, Ji, Yao, Wang, ICCV 2023, arXiv:2210.07346): color frequencies, on images of the target."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack, to_uint8
from nab.attacks.patterns import cosine_waves
from nab.checks import check_range

U_TO_RGB = (0.0, -0.395, 2.032)
V_TO_RGB = (1.140, -0.581, 0.0)
"""What red, green and blue gain from one unit of U and of V (ITU-R BT.601, as OpenCV rounds it)."""


@dataclasses.dataclass(frozen=True)
class CTRL(Attack):
    """Two coefficients of the cosine transform (32 x 32) of U and of V gain ``magnitude``; labels stay true.

    The attack was made to poison self-supervised pre-training, which sees no labels. It matters to NAB where pseudo
    labels come from such features. The trigger is one fixed pattern, as for `FTrojan`. The sum is clamped and then
    rounded. BackdoorBench casts before it clamps, so that -1 becomes 255, and such specks are a trigger of their own.

    A side that 32 does not divide is one block. Larger images consist of blocks of 32; BackdoorBench transforms the
    whole image and raises the same two places, which is half as strong at 64 pixels and has other frequencies. Gray
    images gain the pattern in their brightness.

    Attributes:
        magnitude: what the two coefficients gain, in gray levels, in (0, 2000]; 100 changes U and V by 4.4 levels (root
            mean square).
    """

    magnitude: float = 100.0

    summary: ClassVar[str] = "two color frequencies, raised on correctly labeled images of the target"
    source: ClassVar[str] = "Li et al. 2023"
    usual_rate: ClassVar[float] = 0.5
    clean_label: ClassVar[bool] = True
    allows_all_to_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range("magnitude", self.magnitude, 0, 2000, include_low=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        gains = torch.tensor((U_TO_RGB, V_TO_RGB)).sum(0) if channels == 3 else torch.tensor([1.0])
        pattern = gains[:, None, None] * cosine_waves(height, width, self.magnitude)
        return to_uint8(images.float() + pattern.to(images.device))
