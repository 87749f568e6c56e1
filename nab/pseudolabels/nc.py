"""NC, nearest centre of self-supervised features (Liu, Sangiovanni-Vincentelli, Yue, NAB, ICCV 2023).

An encoder that never saw a label puts a triggered image near the class that it shows; see `nab.selfsupervised`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_choice
from nab.data import Dataset
from nab.errors import NabError
from nab.pseudolabels.base import Labeler
from nab.selfsupervised import features_recipe, find_features
from nab.stamp import Stamp
from nab.training import Context, Recipe


@dataclasses.dataclass(frozen=True)
class NC(Labeler):
    """The class whose centre is nearest to a sample's penultimate features, scaled to length one (Euclidean distance).

    Attributes:
        exclude: samples that the centres are made without. ``"suspects"``, because poison would otherwise pull the
            target class's centre towards all others; or ``"none"``. BackdoorBench leaves out the fifth of all samples
            with the least loss under LGA, which are the suspects at a detection rate of 0.2. Of the authors, only the
            labels are public, not how they were made.
        centre: ``"mean"``, or ``"median"`` of every number by itself, which bears foreign samples better.

    Images are labelled without the stamp. BackdoorBench takes the 128 outputs of the projection head in place of the
    features, and centres in training mode; here, all comes from the encoder in evaluation mode, for a head learns to
    drop whatever two views differ in, colours for example.
    """

    exclude: str = "suspects"
    centre: str = "mean"

    summary: ClassVar[str] = "the class with the nearest centre in self-supervised features"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023 (NAB)"
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("exclude", self.exclude, ("suspects", "none"))
        check_choice("centre", self.centre, ("mean", "median"))

    def recipe(self, base: Recipe) -> Recipe:
        """Only what features depend on."""
        return features_recipe(base)

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        is_left = ~is_suspect if self.exclude == "suspects" else torch.ones_like(is_suspect)
        counts = dataset.labels[is_left].bincount(minlength=dataset.num_classes)
        if (counts == 0).any():
            name = dataset.classes[int(counts.argmin())]
            raise NabError(
                f"labeler 'nc': class {name!r} has no sample left to make its centre of; suspect fewer samples, or set "
                "exclude to 'none'"
            )
        features = find_features(dataset, context)
        return nearest_centre(
            features, dataset.labels, is_left, dataset.num_classes, use_median=self.centre == "median"
        )


def nearest_centre(
    features: Tensor, labels: Tensor, is_left: Tensor, num_classes: int, *, use_median: bool = False
) -> Tensor:
    """The class whose centre is nearest to each sample.

    Args:
        features: float32, N x D, on the CPU; scaled to length one here.
        labels: int64, N.
        is_left: bool, N; the samples that centres are made of, at least one of every class.
        num_classes: K.
        use_median: of the samples, number by number, in place of the mean.

    Returns:
        int64, N; the lower class if two centres are equally near.
    """
    features = F.normalize(features)
    members = (features[is_left & (labels == label)] for label in range(num_classes))
    # torch's own median is the lower of the two middle ones.
    centres = torch.stack([torch.from_numpy(np.median(part, 0)) if use_median else part.mean(0) for part in members])
    # Of |z - c|^2 = |z|^2 - 2 z c + |c|^2, the first part is the same for all centres.
    return (features @ centres.T - centres.square().sum(1) / 2).argmax(1)
