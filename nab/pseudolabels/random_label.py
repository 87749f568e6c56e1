"""A labeler that changes every label at random: the lower bound in ablations of the labeler."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.needs import Given
from nab.pseudolabels.base import Labeler
from nab.seeding import stream
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class RandomLabeler(Labeler):
    """Every sample gets a class other than its label; all others are equally likely.

    With it, a defense shows the effect of the stamp and of changed labels alone.
    """

    summary: ClassVar[str] = "any class but the observed one: the lower bound for a labeler"
    source: ClassVar[str] = "ablations"

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        generator = stream(trainer.seed, "random labeler")
        shift = torch.randint(1, dataset.num_classes, (len(dataset),), generator=generator)
        return (dataset.labels + shift) % dataset.num_classes
