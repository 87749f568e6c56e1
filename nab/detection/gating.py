"""Detectors that judge classes first: how their scores become one order of all samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nab.errors import NabError

SHARE = 0.5
"""Of a class that may be suspected: if poison were the majority, it would be the class."""


def gate_classes(scores: Tensor, labels: Tensor, statistics: Tensor, is_flagged: Tensor | None = None) -> Tensor:
    """Scores that can be compared between classes: first the most suspicious class, in its own order, then the next.

    Args:
        scores: float, N, finite; comparable within a class only.
        labels: int64, N; the observed ones.
        statistics: float, K; how suspicious each class is; NaN for one that could not be judged.
        is_flagged: bool, K; classes that the method would have looked at; the one of highest statistic always is.

    Returns:
        float32, N: within the class of rank r (0 = highest statistic) from ``-r`` (exclusive) down to ``-r - 1``, each
        sample by its rank in the class; minus infinity for classes that are not flagged and for the less suspicious
        half of each class, at least one sample of which is left.

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
    """How far each class lies from the median, in robust standard deviations.

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
    """The mean of the two middle ones if their number is even; torch's own takes the lower."""
    return values.quantile(0.5)
