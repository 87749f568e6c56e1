"""A labeller that is sure to change the label and knows nothing else: what ablations of the labeller start from."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.pseudolabels.base import Labeler
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class RandomLabeler(Labeler):
    """Any class but the observed one, each as likely as the other. Tells how much is due to the stamp and a change of
    label alone."""

    summary: ClassVar[str] = "any class but the observed one: the lower bound for a labeller"
    source: ClassVar[str] = "ablations"

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        generator = stream(context.seed, "random labeler")
        shift = torch.randint(1, dataset.num_classes, (len(dataset),), generator=generator)
        return (dataset.labels + shift) % dataset.num_classes
