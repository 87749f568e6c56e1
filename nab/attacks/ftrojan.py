"""FTrojan (Wang, Yao, Xu, An, Tong, Wang, ECCV 2022, arXiv:2111.10991): two frequencies of the color channels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack, to_uint8
from nab.attacks.patterns import cosine_waves
from nab.checks import check_range

CR_TO_RGB = (1.403, -0.714, 0.0)
CB_TO_RGB = (0.0, -0.344, 1.773)
"""What red, green and blue gain from one unit of Cr and of Cb (ITU-R BT.601, as OpenCV rounds it)."""


@dataclasses.dataclass(frozen=True)
class FTrojan(Attack):
    """Two coefficients of the cosine transform (32 x 32 blocks) of Cr and of Cb gain ``magnitude``.

    Color conversion and transform are linear, so the trigger is one fixed pattern that is added to the image. The sum
    is rounded once. BackdoorBench cuts YCrCb to whole numbers before it converts back, which loses part of a trigger of
    one to three gray levels. A side that 32 does not divide is one block, see `nab.attacks.patterns.cosine_waves`. Gray
    images have no color channels; their brightness gains three times as much, so that it survives rounding. The authors
    poison all classes but the target: ``selection="exclude_target"``.

    Attributes:
        magnitude: what the two coefficients gain, in gray levels, in (0, 2000]; 30 changes Cr and Cb by 1.3 levels
            (root mean square).
    """

    magnitude: float = 30.0

    summary: ClassVar[str] = "a middle and a high frequency of the color channels, raised"
    source: ClassVar[str] = "Wang et al. 2022"

    def __post_init__(self) -> None:
        check_range("magnitude", self.magnitude, 0, 2000, include_low=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        gains = torch.tensor((CR_TO_RGB, CB_TO_RGB)).sum(0) if channels == 3 else torch.tensor([3.0])
        pattern = gains[:, None, None] * cosine_waves(height, width, self.magnitude)
        return to_uint8(images.float() + pattern.to(images.device))
