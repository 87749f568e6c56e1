"""What detectors share that look at the attacked model's features, where a class's poison stands apart."""

from __future__ import annotations

import torch
from torch import Tensor

from nab.detection.gating import mad_index
from nab.errors import NabError
from nab.seeding import derive

SMALLEST = 8
"""The fewest samples of a class that is judged; fewer do not show how a class varies."""


def check_classes(labels: Tensor) -> None:
    """Whether the classes of int64 N ``labels`` can be compared.

    Raises:
        NabError: there is only one class, or no class has `SMALLEST` samples.
    """
    sizes = labels.unique(return_counts=True)[1]
    if len(sizes) < 2:
        raise NabError(f"expected samples of at least two classes, which are compared, got {len(sizes)}")
    if sizes.max() < SMALLEST:
        raise NabError(f"expected a class of at least {SMALLEST} samples, got at most {int(sizes.max())} per class")


def check_finite(features: Tensor, what: str = "sample") -> None:
    """Whether float N x D ``features`` are finite.

    Raises:
        NabError: a feature is not; the message names the first row, as a ``what``.
    """
    is_wrong = ~features.isfinite().all(1)
    if is_wrong.any():
        raise NabError(
            f"expected finite features, got others for {what} {int(is_wrong.nonzero()[0])}; the attacked model's "
            "training may have diverged"
        )


def judged_classes(labels: Tensor, num_classes: int) -> dict[int, Tensor]:
    """The positions of the samples of every class that has at least `SMALLEST`, by label."""
    members = {label: (labels == label).nonzero().squeeze(1) for label in range(num_classes)}
    return {label: index for label, index in members.items() if len(index) >= SMALLEST}


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions of largest variance, from the covariance matrix; the cost is linear in n.

    Args:
        features: float64, n x D.
        count: how many directions, at most. A direction with less than a billionth of the largest variance is left out.

    Returns:
        float64, D x k, orthonormal, and float64, k, the variances, in falling order; k is 0 if nothing varies.
    """
    variances, axes = torch.linalg.eigh(torch.cov(features.T).reshape(features.shape[1], -1))
    is_used = variances > 1e-9 * variances[-1].clamp_min(1e-30)
    order = is_used.nonzero().squeeze(1).flip(0)[:count]
    return axes[:, order], variances[order]


def inverse_root(covariance: Tensor) -> Tensor:
    """``S^(-1/2)`` of a symmetric float64 k x k matrix. Directions without variance are left out, as in a
    pseudo-inverse."""
    values, vectors = torch.linalg.eigh(covariance)
    roots = torch.where(values > 1e-9 * values[-1].clamp_min(1e-30), values, torch.inf).rsqrt()
    return (vectors * roots) @ vectors.T


def two_means(values: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The best of ten runs of 2-means.

    Args:
        values: float64, n x k.
        seed: of the starts.

    Returns:
        bool, n, the members of the smaller group, and float64, 2 x k, the centers of the larger and of the smaller
        group. If both are of one size, the group without the first sample counts as the smaller one.
    """
    from sklearn.cluster import KMeans

    fit = KMeans(2, n_init=10, random_state=derive(seed, "two means") % 2**32).fit(values.numpy())
    is_one, centers = torch.from_numpy(fit.labels_ == 1), torch.from_numpy(fit.cluster_centers_)
    size = int(is_one.sum())
    is_one_smaller = not is_one[0] if 2 * size == len(values) else 2 * size < len(values)
    return (is_one, centers) if is_one_smaller else (~is_one, centers.flip(0))


def stands_out(statistics: Tensor, threshold: float) -> Tensor:
    """The classes whose statistic lies above the median by more than ``threshold`` robust standard deviations.

    The sources also flag classes far below the median, although a low statistic says nothing against a class.

    Args:
        statistics: float, K; NaN for a class that could not be judged.
        threshold: above 0.

    Returns:
        bool, K.
    """
    return (mad_index(statistics) > threshold) & (statistics > statistics.nanmedian())
