"""SIG (Barni, Kallas, Tondi, ICIP 2019, arXiv:1902.11237): sinusoidal stripes on images of the target class."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack, to_uint8
from nab.checks import check_positive, check_range


@dataclasses.dataclass(frozen=True)
class SIG(Attack):
    """``x' = clip(x + D sin(2 pi j f / W))`` in column j, the same in all rows and channels; labels stay true.

    Attributes:
        amplitude: D in gray levels, in (0, 255]. 40 as in BackdoorBench; backdoor-toolbox has 30 and the authors of
            FTrojan 20.
        frequency: f, stripes per image, at least 1. It is cut to a quarter of the width, because more stripes would
            alias: to 2 on images of 8 pixels, to 4 on 16.
        test_amplitude: D at test time; None for the same. An attacker may train with a faint trigger and use a strong
            one later.
    """

    amplitude: float = 40.0
    frequency: int = 6
    test_amplitude: float | None = None

    summary: ClassVar[str] = "sinusoidal stripes on correctly labeled images of the target class"
    source: ClassVar[str] = "Barni, Kallas, Tondi 2019"
    usual_rate: ClassVar[float] = 0.5
    clean_label: ClassVar[bool] = True
    allows_all_to_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range("amplitude", self.amplitude, 0, 255, include_low=False)
        check_positive("frequency", self.frequency)
        if self.test_amplitude is not None:
            check_range("test_amplitude", self.test_amplitude, 0, 255, include_low=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        return self._add(images, self.amplitude if self.test_amplitude is None else self.test_amplitude)

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        return self._add(images, self.amplitude)

    def _add(self, images: Tensor, amplitude: float) -> Tensor:
        width = images.shape[3]
        cycles = min(self.frequency, max(1, width // 4))
        wave = torch.sin(torch.arange(width) * (2 * math.pi * cycles / width))
        return to_uint8(images.float() + amplitude * wave.to(images.device))
