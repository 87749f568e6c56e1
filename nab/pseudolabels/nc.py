"""NC, nearest center of self-supervised features (Liu, Sangiovanni-Vincentelli, Yue, NAB, ICCV 2023).

An encoder that never saw a label puts a triggered image near the images of the class that it shows; see
`nab.selfsupervised`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_choice, check_range
from nab.data import Dataset
from nab.errors import NabError
from nab.needs import Given
from nab.pseudolabels.base import Labeler, trusted
from nab.selfsupervised import features_recipe, find_features
from nab.training import Recipe, Trainer

METRICS = ("euclidean", "mahalanobis")


@dataclasses.dataclass(frozen=True)
class NC(Labeler):
    """Every sample gets the class whose center is nearest to its penultimate features, scaled to length one.

    Attributes:
        exclude_rate: share of all samples, those with the highest scores, that no center is made of, besides the
            suspects; in [0, 1). Poison would pull the center of the target class towards all others. With None, centers
            are made of every sample.
        center: ``"mean"``, or ``"median"``, number by number, on which foreign samples have less effect.
        metric: ``"euclidean"``, or ``"mahalanobis"``, in which a direction counts less the more the samples of one
            class differ along it (Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification:
            Generalizing to New Classes at Near-Zero Cost", TPAMI 2013, compare both). All classes share one covariance.
            The estimator of Ledoit and Wolf makes it from the samples that the centers are made of.

    The authors published their labels, but not how they made them. An ``exclude_rate`` of a fifth is BackdoorBench's,
    which ranks samples by LGA.

    Images are labeled without the stamp. BackdoorBench takes the 128 outputs of the projection head in place of the
    features, and makes centers in training mode. Here, the features come from the encoder in evaluation mode: a head
    learns to drop whatever two views differ in, such as colors.
    """

    exclude_rate: float | None = 0.2
    center: str = "mean"
    metric: str = "euclidean"

    summary: ClassVar[str] = "the class with the nearest center in self-supervised features"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023 (NAB)"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "suspects"})

    def __post_init__(self) -> None:
        if self.exclude_rate is not None:
            check_range("exclude_rate", self.exclude_rate, 0, 1, include_high=False)
        check_choice("center", self.center, ("mean", "median"))
        check_choice("metric", self.metric, METRICS)

    def recipe(self, base: Recipe) -> Recipe:
        """The part of the recipe that features depend on."""
        return features_recipe(base)

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        is_left = torch.ones(len(dataset), dtype=torch.bool)
        if self.exclude_rate is not None:
            is_left = trusted(dataset, given.require_suspicion(), self.exclude_rate)
        is_lost = ~torch.isin(dataset.labels, dataset.labels[is_left])
        if is_lost.any():
            name = dataset.classes[int(dataset.labels[is_lost][0])]
            raise NabError(
                f"labeler 'nc': all samples of class {name!r} are suspects, so it has no center; suspect fewer, or set "
                "exclude_rate to null"
            )
        features = find_features(dataset, given.require_encoder())
        return nearest_center(features, dataset.labels, is_left, use_median=self.center == "median", metric=self.metric)


def nearest_center(
    features: Tensor, labels: Tensor, is_left: Tensor, *, use_median: bool = False, metric: str = "euclidean"
) -> Tensor:
    """The class whose center is nearest to each sample.

    Args:
        features: float32, N x D, on the CPU; scaled to length one here.
        labels: int64, N.
        is_left: bool, N; the samples that centers are made of. A class without any is never guessed.
        use_median: whether a center is the median of its samples, number by number, and not their mean.
        metric: one of `METRICS`.

    Returns:
        int64, N; the lower class if two centers are equally near.
    """
    features = F.normalize(features)
    kept = labels[is_left].unique()
    groups = [features[is_left & (labels == label)] for label in kept]
    # The median of torch is the lower of two middle numbers, that of numpy their mean.
    centers = torch.stack([torch.from_numpy(np.median(group, 0)) if use_median else group.mean(0) for group in groups])
    if metric == "mahalanobis":
        whiten = _whitening(torch.cat([group - group.mean(0) for group in groups]))
        features, centers = features.double() @ whiten, centers.double() @ whiten
    # |z - c|^2 = |z|^2 - 2 z c + |c|^2, and |z|^2 is the same for all centers.
    return kept[(features @ centers.T - centers.square().sum(1) / 2).argmax(1)]


def _whitening(residuals: Tensor) -> Tensor:
    """A map, float64, D x D. Behind it, samples differ from the mean of their class by one, in all directions alike."""
    from sklearn.covariance import ledoit_wolf  # importing it takes a second

    covariance = torch.from_numpy(ledoit_wolf(residuals.double().numpy(), assume_centered=True)[0])
    spread, directions = torch.linalg.eigh(covariance)
    if not spread[-1] > 0:  # the samples of every class are all the same
        return torch.eye(len(spread), dtype=torch.float64)
    return directions / spread.clamp_min(1e-9 * spread[-1].item()).sqrt()
