"""A detector that knows the truth and is right as often as it is told: for ablations only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from nab.checks import check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.needs import Given
from nab.seeding import stream
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class OracleDetector(Detector):
    """The suspects are poisoned with a given accuracy.

    Attributes:
        accuracy: share of the suspects that are poisoned, in [0, 1]. It is exact for every detection rate, as long as
            there are enough poisoned samples.
    """

    accuracy: float = 1.0

    summary: ClassVar[str] = "knows the truth; the share of suspects that are poisoned can be set"
    source: ClassVar[str] = "ablations"
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def __post_init__(self) -> None:
        check_range("accuracy", self.accuracy, 0, 1)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        is_poisoned = given.require_truth().is_poisoned
        generator = stream(trainer.seed, "oracle detector")
        poisoned, clean = (
            members[torch.randperm(len(members), generator=generator)]
            for members in (is_poisoned.nonzero().squeeze(1), (~is_poisoned).nonzero().squeeze(1))
        )
        # Of the first k ranks, round(accuracy * k) go to poisoned samples, for every k, until those are used up.
        quota = (self.accuracy * torch.arange(len(dataset) + 1, dtype=torch.float64) + 0.5).floor()
        ranks = quota.diff().nonzero().squeeze(1)[: len(poisoned)]
        is_taken = torch.zeros(len(dataset), dtype=torch.bool)
        is_taken[ranks] = True
        order = torch.empty(len(dataset), dtype=torch.long)
        order[ranks] = poisoned[: len(ranks)]
        order[~is_taken] = torch.cat([clean, poisoned[len(ranks) :]])
        scores = torch.empty(len(dataset))
        scores[order] = torch.arange(len(dataset), 0, -1, dtype=torch.float32)
        return Scored(scores)
