"""Activation clustering (Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, "Detecting Backdoor
Attacks on Deep Neural Networks by Activation Clustering", SafeAI at AAAI 2019).

Clean and poisoned samples of a class get the same answer for different reasons. Their features form two clusters, and
the smaller one is poisoned.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_choice, check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.detection.gating import gate_classes
from nab.detection.latent import check_classes, check_finite, judged_classes, principal_axes, two_means
from nab.needs import Given
from nab.seeding import derive, stream
from nab.training import Trainer

STATISTICS = ("size", "silhouette")

SAMPLED = 1000
"""Samples of a class from which its silhouette is computed, at most; the cost is quadratic in them."""


@dataclasses.dataclass(frozen=True)
class ActivationClustering(Detector):
    """The score is how much nearer a sample lies to the center of its class's smaller cluster than to the larger's.

    Attributes:
        components: principal components of the features that are clustered, at least 1.
        is_whitened: whether the components are scaled to unit variance. The paper takes independent components, which
            are whitened principal components in a rotated frame; 2-means gives the same clusters in both.
            backdoor-toolbox does not scale them.
        statistic: orders the classes. ``"size"`` is one minus the smaller cluster's share; ``"silhouette"`` is the mean
            silhouette of at most 1,000 samples, and is high if the clusters stand apart.
        largest_share: a class is suspected if its smaller cluster holds less than this share, in (0, 0.5]; the class of
            highest statistic always is.

    Defaults are BackdoorBench's: 10 components, and the share 0.35, which the paper does not name. The paper removes
    whole clusters; a score for each sample and an order of the classes are this library's choice.
    """

    components: int = 10
    is_whitened: bool = True
    statistic: str = "size"
    largest_share: float = 0.35

    summary: ClassVar[str] = "two clusters in the features of a class, of which the smaller one is poisoned"
    source: ClassVar[str] = "Chen et al. 2019"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model"})
    judges_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("components", self.components)
        check_choice("statistic", self.statistic, STATISTICS)
        check_range("largest_share", self.largest_share, 0, 0.5, include_low=False)

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        check_classes(dataset.labels)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        scores, shares, silhouettes = cluster_scores(
            given.require_attacked().predictor.features(dataset.images).cpu(),
            dataset.labels,
            dataset.num_classes,
            components=self.components,
            is_whitened=self.is_whitened,
            has_silhouettes=self.statistic == "silhouette",
            seed=derive(trainer.seed, "activation clustering"),
        )
        statistics = silhouettes if self.statistic == "silhouette" else 1 - shares
        gated = gate_classes(scores, dataset.labels, statistics, shares < self.largest_share)
        return Scored(gated, {"shares": shares})


def cluster_scores(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    components: int = 10,
    is_whitened: bool = True,
    has_silhouettes: bool = True,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each class in two clusters.

    Args:
        features: float, N x D.
        labels: int64, N; the observed ones.
        num_classes: K.
        components: see `ActivationClustering`.
        is_whitened: see `ActivationClustering`.
        has_silhouettes: whether these are computed.
        seed: draws the starts of 2-means and the samples of the silhouette.

    Returns:
        float32, N: the distance to the center of the larger cluster minus the distance to the center of the smaller
        one, zero in classes that were not judged; float32, K: the smaller cluster's share, in (0, 0.5]; float32, K: the
        silhouette, in [-1, 1]. Share and silhouette are NaN for a class of too few samples or without variance; all
        silhouettes are NaN if they are not computed.

    Raises:
        NabError: see `check_classes` and `check_finite`.
    """
    check_classes(labels)
    check_finite(features)
    scores = torch.zeros(len(labels))
    shares, silhouettes = torch.full((2, num_classes), math.nan)
    for label, members in judged_classes(labels, num_classes).items():
        own = features[members].double()
        axes, variances = principal_axes(own, components)
        if not len(variances):
            continue
        values = (own - own.mean(0)) @ axes
        if is_whitened:
            values /= variances.sqrt()
        is_small, centers = two_means(values, derive(seed, f"class {label}"))
        distances = torch.cdist(values, centers)
        scores[members] = (distances[:, 0] - distances[:, 1]).float()
        shares[label] = is_small.double().mean()
        if has_silhouettes:
            silhouettes[label] = _silhouette(values, is_small, derive(seed, f"silhouette {label}"))
    return scores, shares, silhouettes


def _silhouette(values: Tensor, is_small: Tensor, seed: int) -> float:
    """The mean silhouette of at most `SAMPLED` samples. Each cluster has its share of them, but at least one."""
    from sklearn.metrics import silhouette_score

    generator = stream(seed, "samples")
    chosen = []
    for members in (is_small.nonzero().squeeze(1), (~is_small).nonzero().squeeze(1)):
        count = max(1, len(members) * min(SAMPLED, len(values)) // len(values))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    index = torch.cat(chosen)
    return float(silhouette_score(values[index].numpy(), is_small[index].numpy()))
