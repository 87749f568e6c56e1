"""A detector that guesses, for ablations."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.needs import Given
from nab.seeding import stream
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class RandomDetector(Detector):
    """A random order without ties. The share of poison among the suspects is about that among all samples."""

    summary: ClassVar[str] = "guesses: the lower bound for a detector"
    source: ClassVar[str] = "ablations"

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        return Scored(torch.randperm(len(dataset), generator=stream(trainer.seed, "random detector")).float())
