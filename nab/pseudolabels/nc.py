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

from nab.checks import check_choice, check_range
from nab.data import Dataset
from nab.errors import NabError
from nab.pseudolabels.base import Labeler, trusted
from nab.selfsupervised import features_recipe, find_features
from nab.stamp import Stamp
from nab.training import Context, Recipe

METRICS = ("euclidean", "mahalanobis")


@dataclasses.dataclass(frozen=True)
class NC(Labeler):
    """The class whose centre is nearest to a sample's penultimate features, scaled to length one.

    Attributes:
        exclude_rate: share of samples, those of the highest scores, that the centres are made without, besides the
            suspects, in [0, 1); poison pulls the target class's centre towards all others. None: every sample counts.
        centre: ``"mean"``, or ``"median"`` of every number by itself, which bears foreign samples better.
        metric: ``"euclidean"``, or ``"mahalanobis"``, which counts a direction for less the more samples of one class
            differ along it (Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to
            New Classes at Near-Zero Cost", TPAMI 2013, compare both). One covariance serves all classes, estimated as
            Ledoit and Wolf do from the samples that the centres are made of.

    Of the authors, only the labels are public, not how they were made; a fifth is BackdoorBench's, which ranks by LGA.

    Images are labelled without the stamp. BackdoorBench takes the 128 outputs of the projection head in place of the
    features, and centres in training mode; here, all comes from the encoder in evaluation mode, for a head learns to
    drop whatever two views differ in, colours for example.
    """

    exclude_rate: float | None = 0.2
    centre: str = "mean"
    metric: str = "euclidean"

    summary: ClassVar[str] = "the class with the nearest centre in self-supervised features"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023 (NAB)"
    needs_features: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.exclude_rate is not None:
            check_range("exclude_rate", self.exclude_rate, 0, 1, include_high=False)
        check_choice("centre", self.centre, ("mean", "median"))
        check_choice("metric", self.metric, METRICS)

    def recipe(self, base: Recipe) -> Recipe:
        """Only what features depend on."""
        return features_recipe(base)

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        is_left = torch.ones_like(is_suspect)
        if self.exclude_rate is not None:
            is_left = trusted(dataset, is_suspect, context.scores, self.exclude_rate)
        is_lost = ~torch.isin(dataset.labels, dataset.labels[is_left])
        if is_lost.any():
            name = dataset.classes[int(dataset.labels[is_lost][0])]
            raise NabError(
                f"labeler 'nc': all samples of class {name!r} are suspects, so it has no centre; suspect fewer, or set "
                "exclude_rate to null"
            )
        features = find_features(dataset, context)
        return nearest_centre(features, dataset.labels, is_left, use_median=self.centre == "median", metric=self.metric)


def nearest_centre(
    features: Tensor, labels: Tensor, is_left: Tensor, *, use_median: bool = False, metric: str = "euclidean"
) -> Tensor:
    """The class whose centre is nearest to each sample.

    Args:
        features: float32, N x D, on the CPU; scaled to length one here.
        labels: int64, N.
        is_left: bool, N; the samples that centres are made of. A class without any is nobody's guess.
        use_median: of the samples, number by number, in place of the mean.
        metric: one of `METRICS`.

    Returns:
        int64, N; the lower class if two centres are equally near.
    """
    features = F.normalize(features)
    kept = labels[is_left].unique()
    groups = [features[is_left & (labels == label)] for label in kept]
    # torch's own median is the lower of the two middle ones.
    centres = torch.stack([torch.from_numpy(np.median(group, 0)) if use_median else group.mean(0) for group in groups])
    if metric == "mahalanobis":
        whiten = _whitening(torch.cat([group - group.mean(0) for group in groups]))
        features, centres = features.double() @ whiten, centres.double() @ whiten
    # Of |z - c|^2 = |z|^2 - 2 z c + |c|^2, the first part is the same for all centres.
    return kept[(features @ centres.T - centres.square().sum(1) / 2).argmax(1)]


def _whitening(residuals: Tensor) -> Tensor:
    """The map, D x D, after which samples differ equally, by one, in all directions from their class's mean."""
    from sklearn.covariance import ledoit_wolf  # takes a second

    covariance = torch.from_numpy(ledoit_wolf(residuals.double().numpy(), assume_centered=True)[0])
    spread, directions = torch.linalg.eigh(covariance)
    if not spread[-1] > 0:  # no two samples of a class differ
        return torch.eye(len(spread), dtype=torch.float64)
    return directions / spread.clamp_min(1e-9 * spread[-1].item()).sqrt()
