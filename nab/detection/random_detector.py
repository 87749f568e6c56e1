"""A detector that guesses: what ablations of the detector start from."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.detection.base import Detector
from nab.seeding import stream
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class RandomDetector(Detector):
    """Samples in random order, without ties. Of the suspects, about as many are poisoned as of all samples."""

    summary: ClassVar[str] = "guesses: the lower bound for a detector"
    source: ClassVar[str] = "ablations"

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        return torch.randperm(len(dataset), generator=stream(context.seed, "random detector")).float()
