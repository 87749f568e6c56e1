"""Second likely: what the attacked model would answer if it were not for the observed label (a control, no paper)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.pseudolabels.base import Labeler
from nab.stamp import Stamp
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class SecondLikely(Labeler):
    """The most likely class under the attacked model among those that are not the observed label.

    Needs no verified data. It never keeps a label, so a clean sample among the suspects always gets a wrong one. The
    attacked model is trained to the end and shared with other methods; LGA's network, which would also do, unlearns
    samples again and again, and not every detector has it.

    Attributes:
        stamp_when_labelling: whether the images that are labelled carry the stamp. Not by default: the attacked model
            has never seen the stamp. It does hide a trigger that lies under it.
    """

    stamp_when_labelling: bool = False

    summary: ClassVar[str] = "the attacked model's most likely class other than the observed label"
    source: ClassVar[str] = "ablations"

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        predictor = context.train_plainly(dataset).predictor.with_stamp(stamp if self.stamp_when_labelling else None)
        return second_likely(predictor.logits(dataset.images).cpu(), dataset.labels)


def second_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The class of the highest logit other than the label's: float N x K and int64 N to int64 N."""
    return logits.scatter(1, labels[:, None], -math.inf).argmax(1)
