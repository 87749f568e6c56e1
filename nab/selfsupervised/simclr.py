"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): two views of an image are alike, two images are not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.selfsupervised.base import SelfSupervised
from nab.training import Context, Predictor


@dataclasses.dataclass(frozen=True)
class SimCLR(SelfSupervised):
    """Placeholder."""

    epochs: int = 100

    summary: ClassVar[str] = "contrastive"
    source: ClassVar[str] = "Chen, Kornblith, Norouzi, Hinton 2020"

    def train(self, images: Tensor, predictor: Predictor, context: Context) -> list[dict[str, float]]:
        return []
