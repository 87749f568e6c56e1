"""One order of all samples from the scores of detectors that judge classes first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nab.errors import NabError

SHARE = 0.5
"""The largest share of a class that may be suspected: if poison were the majority, it would be the class."""


def gate_classes(scores: Tensor, labels: Tensor, statistics: Tensor, is_flagged: Tensor | None = None) -> Tensor:
    """Scores that can be compared between classes: the samples of the most suspicious class come first, then the next.

    Args:
        scores: float, N, finite; only those of one class can be compared.
        labels: int64, N; the observed ones.
        statistics: float, K; how suspicious each class is; NaN for one that could not be judged.
        is_flagged: bool, K; the classes that the method suspects. The class of highest statistic always counts.

    Returns:
        float32, N: samples of the suspected class of rank r (0 = highest statistic) have values between ``-r`` and
        ``-r - 1``, in the order of their scores. Minus infinity for classes that are not suspected and for the less
        suspicious half of each class; at least one sample of a class is left.

    Raises:
        NabError: no class could be judged.
    """
    judged = [int(label) for label in statistics.argsort(descending=True) if not statistics[label].isnan()]
    if not judged:
        raise NabError("no class has samples enough to be judged; is the training set too small for this detector?")
    gated = torch.full((len(scores),), -math.inf)
    chosen = [label for label in judged if label == judged[0] or (is_flagged is not None and is_flagged[label])]
    for place, label in enumerate(chosen):
        members = (labels == label).nonzero().squeeze(1)
        order = members[scores[members].argsort(descending=True, stable=True)]
        allowed = order[: max(1, int(SHARE * len(order)))]
        gated[allowed] = -place - (torch.arange(len(allowed)) + 1.0) / (len(order) + 1.0)
    return gated


def mad_index(statistics: Tensor) -> Tensor:
    """The distance of each class from the median, in robust standard deviations.

    Args:
        statistics: float, K; NaN for a class that could not be judged.

    Returns:
        float, K: ``|J - median| / (1.4826 MAD)``; NaN where the statistic is; zeros if all are equal.
    """
    values = statistics[~statistics.isnan()]
    if not len(values):
        return statistics.clone()
    distance = (statistics - _median(values)).abs()
    spread = 1.4826 * _median((values - _median(values)).abs())
    return distance / spread if spread > 0 else torch.where(distance > 0, math.inf, distance)


def _median(values: Tensor) -> Tensor:
    """The median, which is the mean of the two middle values if their number is even; torch's takes the lower one."""
    return values.quantile(0.5)
