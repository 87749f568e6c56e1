"""Second likely: the attacked model's best answer other than the observed label (a control, from no paper)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.needs import Given
from nab.pseudolabels.base import Labeler
from nab.stamp import Stamp
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class SecondLikely(Labeler):
    """Every sample gets the class that the attacked model finds most likely among all but the observed label.

    The labeler needs no verified data. It never keeps a label, so a clean sample among the suspects always gets a wrong
    one. It shares the attacked model, which is trained to the end, with other methods. LGA's network would also do, but
    it unlearns samples again and again, and not every detector has one.

    Attributes:
        stamp: written on the images that are labeled. The default is None, because the attacked model has never seen a
            stamp. A stamp hides a trigger that lies under it.
    """

    stamp: Stamp | None = None

    summary: ClassVar[str] = "the attacked model's most likely class other than the observed label"
    source: ClassVar[str] = "ablations"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model"})

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        change = None if self.stamp is None else self.stamp.on(dataset.normalization)
        logits = given.require_attacked().predictor.logits(dataset.images, change)
        return second_likely(logits.cpu(), dataset.labels)


def second_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The class of the highest logit other than the label's: float N x K and int64 N to int64 N."""
    return logits.scatter(1, labels[:, None], -math.inf).argmax(1)
