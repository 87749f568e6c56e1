"""Low-frequency trigger (Zeng, Park, Mao, Jia, ICCV 2021, arXiv:2104.03413): a smooth pattern over the image."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import Attack, to_uint8
from nab.checks import check_range
from nab.seeding import stream


@dataclasses.dataclass(frozen=True)
class LowFrequency(Attack):
    """``x' = clip(x + v)`` with one smooth pattern v, from 0 to ``amplitude``, fixed by the seed.

    The authors optimize v against a clean network and smooth it after every step. This is the version without training:
    white noise is smoothed and stretched to the same range. It keeps what the method is known for, a trigger without
    traces in the high frequencies. It leaves out what makes the authors' trigger especially easy to learn.

    BackdoorBench stores its patterns for three architectures on the scale 0 to 0.2 and adds them to images of 0 to 255,
    where they vanish. An amplitude below 5 is therefore refused.

    Attributes:
        amplitude: largest value of v in gray levels, in [5, 255]; a fifth of the scale as in the source.
        sigma: standard deviation of the Gaussian that smooths, in pixels on images of 32, in (0, 32]; it grows with the
            image.
    """

    amplitude: float = 51.0
    sigma: float = 6.0

    summary: ClassVar[str] = "a smooth pattern added to the image, without high frequencies"
    source: ClassVar[str] = "Zeng et al. 2021"

    def __post_init__(self) -> None:
        check_range("amplitude", self.amplitude, 5, 255)
        check_range("sigma", self.sigma, 0, 32, include_low=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        pattern = self.draw(images.shape[1], images.shape[2], images.shape[3], seed)
        return to_uint8(images.float() + pattern.to(images.device))

    def draw(self, channels: int, height: int, width: int, seed: int) -> Tensor:
        """The pattern v: float, C x H x W."""
        noise = torch.randn(channels, height, width, generator=stream(seed, "low-frequency noise"))
        sigma = self.sigma * min(height, width) / 32
        smooth = _gaussian(height, sigma) @ noise @ _gaussian(width, sigma).T
        return self.amplitude * (smooth - smooth.min()) / (smooth.max() - smooth.min())


def _gaussian(length: int, sigma: float) -> Tensor:
    """The matrix that smooths a line of ``length`` pixels; every row sums to 1, so borders do not darken."""
    positions = torch.arange(length)
    weights = torch.exp(-((positions[:, None] - positions) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)
