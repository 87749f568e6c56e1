"""The latent space of the attacked model, in which poisoned samples of a class stand apart from its clean ones."""

from __future__ import annotations

import torch
from torch import Tensor

from nab.data import Dataset
from nab.detection.gating import mad_index
from nab.errors import NabError
from nab.seeding import derive
from nab.training import Context, Predictor

SMALLEST = 8
"""Samples below which a class is not judged: fewer have no covariance worth the name."""


def attacked_model(dataset: Dataset, context: Context) -> Predictor:
    """The network that trained on the set as it is.

    Raises:
        NabError: see `check_classes`; nothing has been trained then.
    """
    check_classes(dataset.labels)
    return context.train_plainly(dataset).predictor


def latent_features(dataset: Dataset, context: Context) -> Tensor:
    """The attacked model's penultimate features of its own training set; float32, N x D, on the CPU.

    Raises:
        NabError: see `check_classes`.
    """
    return attacked_model(dataset, context).features(dataset.images).cpu()


def check_classes(labels: Tensor) -> None:
    """What every detector that compares classes needs of int64 N ``labels``.

    Raises:
        NabError: there is only one class, or no class has samples enough.
    """
    sizes = labels.unique(return_counts=True)[1]
    if len(sizes) < 2:
        raise NabError(f"expected samples of at least two classes, which are compared, got {len(sizes)}")
    if sizes.max() < SMALLEST:
        raise NabError(f"expected a class of at least {SMALLEST} samples, got at most {int(sizes.max())} per class")


def check_finite(features: Tensor, what: str = "sample") -> None:
    """Of float N x D ``features``.

    Raises:
        NabError: a feature is not finite.
    """
    is_wrong = ~features.isfinite().all(1)
    if is_wrong.any():
        raise NabError(
            f"expected finite features, got others for {what} {int(is_wrong.nonzero()[0])}; the attacked model's "
            "training may have diverged"
        )


def judged_classes(labels: Tensor, num_classes: int) -> dict[int, Tensor]:
    """The positions of each class's samples, of classes that have at least `SMALLEST`."""
    members = {label: (labels == label).nonzero().squeeze(1) for label in range(num_classes)}
    return {label: index for label, index in members.items() if len(index) >= SMALLEST}


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions of largest variance, which a covariance matrix has exactly: the cost is linear in n.

    Args:
        features: float64, n x D.
        count: how many; fewer where the others hold less than a billionth of the largest variance.

    Returns:
        float64, D x k, orthonormal, and float64, k, the variances, in falling order; k is 0 if nothing varies.
    """
    variances, axes = torch.linalg.eigh(torch.cov(features.T).reshape(features.shape[1], -1))
    is_used = variances > 1e-9 * variances[-1].clamp_min(1e-30)
    order = is_used.nonzero().squeeze(1).flip(0)[:count]
    return axes[:, order], variances[order]


def inverse_root(covariance: Tensor) -> Tensor:
    """``S^(-1/2)`` of a symmetric float64 k x k matrix; directions without variance are left out, as in a
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
        bool, n, the members of the smaller group (the first sample is not in it if they are equal), and float64, 2 x k,
        the centres of the larger and of the smaller group.
    """
    from sklearn.cluster import KMeans

    fit = KMeans(2, n_init=10, random_state=derive(seed, "two means") % 2**32).fit(values.numpy())
    is_one, centres = torch.from_numpy(fit.labels_ == 1), torch.from_numpy(fit.cluster_centers_)
    size = int(is_one.sum())
    is_one_smaller = not is_one[0] if 2 * size == len(values) else 2 * size < len(values)
    return (is_one, centres) if is_one_smaller else (~is_one, centres.flip(0))


def stands_out(statistics: Tensor, threshold: float) -> Tensor:
    """The classes whose statistic lies above the median by more than ``threshold`` robust standard deviations.

    The sources flag classes far below the median too, which says nothing against a class.

    Args:
        statistics: float, K; NaN for a class that could not be judged.
        threshold: above 0.

    Returns:
        bool, K.
    """
    return (mad_index(statistics) > threshold) & (statistics > statistics.nanmedian())
