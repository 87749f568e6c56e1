"""A labeller that knows the truth, with a dial for how often it is right: for ablations only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_range
from nab.data import Dataset
from nab.pseudolabels.base import Labeler
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class OracleLabeler(Labeler):
    """True labels, a share of them replaced by another class.

    Attributes:
        accuracy: share of the suspects, and of the other samples, that get their true label, in [0, 1]; exact up to
            rounding.
    """

    accuracy: float = 1.0

    summary: ClassVar[str] = "knows the truth; the share of right labels can be set"
    source: ClassVar[str] = "ablations"
    is_oracle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("accuracy", self.accuracy, 0, 1)

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        labels = context.require_truth("labeler 'oracle'").true_labels.clone()
        generator = stream(context.seed, "oracle labeler")
        for part in (is_suspect, ~is_suspect):
            members = part.nonzero().squeeze(1)
            count = int((1 - self.accuracy) * len(members) + 0.5)
            wrong = members[torch.randperm(len(members), generator=generator)[:count]]
            shift = torch.randint(1, dataset.num_classes, (count,), generator=generator)
            labels[wrong] = (labels[wrong] + shift) % dataset.num_classes
        return labels
