"""SCAn (Tang, Wang, Tang, Zhang, "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
Detection", USENIX Security 2021).

The variation of samples within a class is learned from verified data. A class is contaminated if that variation
explains its samples better as two groups than as one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.detection.gating import gate_classes
from nab.detection.latent import (
    check_classes,
    check_finite,
    inverse_root,
    judged_classes,
    principal_axes,
    stands_out,
    two_means,
)
from nab.errors import NabError
from nab.needs import Given
from nab.seeding import derive
from nab.training import Trainer

ITERATIONS = 100
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class SCAn(Detector):
    """The score is how much nearer a sample lies to the suspicious group of its class than to the other group.

    Attributes:
        components: principal components of the features that are kept, at least 1. The covariance within classes is
            learned from the verified data. If these have m samples more than classes, at most m / 2 components are
            kept. The public ports keep all and use a pseudo-inverse, whose largest entries are then noise.
        threshold: a class is suspected if its statistic lies above the median by more robust standard deviations than
            this, above 0; the class of highest statistic always is. e^2 is the published value; backdoor-toolbox has e.

    There are three differences from the public ports. First, the estimate for a class of one group is the posterior
    mean. The ports have that in the global model, but leave out a factor when they inspect a class, and their estimate
    does not tend to the mean of many samples. Second, the ports also flag classes of unusually low statistic. Third,
    the two groups are found by 2-means from ten starts, which climbs the same likelihood more often.
    """

    components: int = 64
    threshold: float = math.e**2

    summary: ClassVar[str] = "a class whose features are two groups, under the variation learned from verified data"
    source: ClassVar[str] = "Tang et al. 2021"
    judges_classes: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"verified", "attacked model"})

    def __post_init__(self) -> None:
        check_positive("components", self.components)
        check_range("threshold", self.threshold, 0, math.inf, include_low=False, include_high=False)

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        check_classes(dataset.labels)
        if verified is not None:
            _check_verified(verified.labels)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        predictor, verified = given.require_attacked().predictor, given.require_verified()
        scores, statistics = scan_scores(
            predictor.features(dataset.images).cpu(),
            dataset.labels,
            predictor.features(verified.images).cpu(),
            verified.labels,
            dataset.num_classes,
            components=self.components,
            seed=derive(trainer.seed, "scan"),
        )
        gated = gate_classes(scores, dataset.labels, statistics, stands_out(statistics, self.threshold))
        return Scored(gated, {"statistics": statistics})


def scan_scores(
    features: Tensor,
    labels: Tensor,
    verified_features: Tensor,
    verified_labels: Tensor,
    num_classes: int,
    *,
    components: int = 64,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Each class as two groups, and how much better these describe it than one.

    Args:
        features: float, N x D.
        labels: int64, N; the observed ones.
        verified_features: float, n x D, of the verified samples.
        verified_labels: int64, n.
        num_classes: K.
        components: see `SCAn`.
        seed: draws the starts of 2-means.

    Returns:
        float32, N: ``2 x^T F (u1 - u2)``, zero in classes that were not judged. ``u1`` is the mean of the group that
        holds fewer verified samples, or of the smaller group if both hold as many. float32, K: the statistic ``J``, NaN
        for a class of too few samples.

    Raises:
        NabError: see `check_classes` and `check_finite`; or there are too few verified samples, or features never vary.
    """
    check_classes(labels)
    check_finite(features)
    check_finite(verified_features, "verified sample")
    spare = _check_verified(verified_labels)
    axes, _ = principal_axes(features.double(), min(components, spare // 2))
    if axes.shape[1] == 0:
        raise NabError("expected features that differ between samples, got the same for all")
    center = verified_features.double().mean(0)
    values, known = (features.double() - center) @ axes, (verified_features.double() - center) @ axes
    between, within = fit_variation(known, verified_labels, num_classes)
    root = inverse_root(within)
    scores, statistics = torch.zeros(len(labels)), torch.full((num_classes,), math.nan)
    for label, members in judged_classes(labels, num_classes).items():
        own, own_known = values[members] @ root, known[verified_labels == label] @ root
        is_second, centers = two_means(own, derive(seed, f"class {label}"))
        holds = torch.cdist(own_known, centers).argmin(1).bincount(minlength=2)
        direction = centers[1] - centers[0] if holds[1] <= holds[0] else centers[0] - centers[1]
        scores[members] = (2 * own @ direction).float()
        mean = class_mean(values[members].sum(0), len(members), between, within) @ root
        split = (own - centers[is_second.long()]).square().sum(1)
        statistics[label] = ((own - mean).square().sum(1) - split).mean()
    return scores, statistics


def fit_variation(values: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The covariance of class means and the covariance within classes, by expectation and maximization.

    Args:
        values: float64, n x k, centerd.
        labels: int64, n.
        num_classes: K.

    Returns:
        float64, k x k, twice.
    """
    counts = labels.bincount(minlength=num_classes)
    sums = torch.zeros(num_classes, values.shape[1], dtype=values.dtype).index_add_(0, labels, values)
    means = sums / counts.clamp_min(1)[:, None]
    between, within = _covariances(values, means[labels])
    for _ in range(ITERATIONS):
        means = torch.stack([class_mean(*pair, between, within) for pair in zip(sums, counts.tolist(), strict=True)])
        last = between, within
        between, within = _covariances(values, means[labels])
        change = (between - last[0]).norm() + (within - last[1]).norm()
        if change <= TOLERANCE * (between.norm() + within.norm()):
            break
    return between, within


def class_mean(total: Tensor, count: int, between: Tensor, within: Tensor) -> Tensor:
    """The posterior mean of a class, ``S_u (n S_u + S_e)^+`` times the sum of its samples: a mean shrunk towards zero.

    The paper writes the factor as ``S_e (n S_u + S_e)^+ S_u S_e^+``, which is the same if the inverses exist.
    """
    shrunk: Tensor = between @ torch.linalg.pinv(count * between + within, hermitian=True) @ total
    return shrunk


def _covariances(values: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """The covariances of the samples' means and of what is left, k x k each."""
    size = values.shape[1]
    return torch.cov(means.T).reshape(size, size), torch.cov((values - means).T).reshape(size, size)


def _check_verified(labels: Tensor) -> int:
    """How many verified samples there are more than classes.

    Raises:
        NabError: there are too few to learn a variation from.
    """
    count, classes = len(labels), len(labels.unique())
    if classes < 2 or count - classes < 4:
        raise NabError(
            "expected verified samples of at least two classes, and at least 4 more samples than classes, got "
            f"{count} of {classes}"
        )
    return count - classes
