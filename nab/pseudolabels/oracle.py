"""A labeler that knows the truth and is right as often as it is told to be; for ablations only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_range
from nab.data import Dataset
from nab.needs import Given
from nab.pseudolabels.base import Labeler
from nab.seeding import stream
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class OracleLabeler(Labeler):
    """Samples get their true label; a share of them gets another class.

    Attributes:
        accuracy: share of the suspects that get their true label, in [0, 1], exact up to rounding. The other samples
            have the same share.
    """

    accuracy: float = 1.0

    summary: ClassVar[str] = "knows the truth; the share of right labels can be set"
    source: ClassVar[str] = "ablations"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects", "truth"})

    def __post_init__(self) -> None:
        check_range("accuracy", self.accuracy, 0, 1)

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        labels, is_suspect = given.require_truth().true_labels.clone(), given.require_suspicion().is_suspect
        generator = stream(trainer.seed, "oracle labeler")
        for part in (is_suspect, ~is_suspect):
            members = part.nonzero().squeeze(1)
            count = int((1 - self.accuracy) * len(members) + 0.5)
            wrong = members[torch.randperm(len(members), generator=generator)[:count]]
            shift = torch.randint(1, dataset.num_classes, (count,), generator=generator)
            labels[wrong] = (labels[wrong] + shift) % dataset.num_classes
        return labels
