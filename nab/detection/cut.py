"""The one rule that turns scores into suspects: a rate, a threshold, or a cut that the scores themselves suggest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nab.checks import check_range
from nab.errors import ConfigError, NabError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

Rate = float | Literal["auto"]
"""A share of the samples, in (0, 1), or `automatic_cut`."""

STARTS = (0.01, 0.05, 0.2, 0.5)
"""Shares of the samples in the upper group from which the fit of two groups starts; the best one counts."""

MINIMUM = 10
"""Fewer scores than these show no groups."""


def select_suspects(scores: Tensor, rate: Rate | None = None, *, threshold: float | None = None) -> Tensor:
    """The samples with the highest scores.

    Args:
        scores: float, N; higher = more suspicious, minus infinity = never a suspect.
        rate: share of samples to suspect, in (0, 1): ``floor(rate * N)`` of them, or fewer if not so many may be
            suspected; ties go to the sample that stands first. Or ``"auto"``, see `automatic_cut`.
        threshold: in place of a rate, suspects all samples that score above it.

    Returns:
        bool, N.

    Raises:
        ConfigError: neither or both are given, the rate is out of its range, or either selects no sample.
        NabError: a score is NaN or infinite, or every one is minus infinity.
    """
    check_scores(scores)
    check_cut(rate, threshold, len(scores))
    if threshold is not None:
        is_suspect = scores > threshold
        if not is_suspect.any():
            raise ConfigError(
                f"expected a threshold that some score is above, got {threshold}; the highest is {scores.max():.6g}"
            )
        return is_suspect
    if rate == "auto":
        return automatic_cut(scores)
    assert rate is not None
    is_suspect = torch.zeros(len(scores), dtype=torch.bool)
    is_suspect[scores.argsort(descending=True, stable=True)[: suspect_count(len(scores), rate)]] = True
    return is_suspect & (scores > -math.inf)


def check_cut(rate: Rate | None, threshold: float | None, size: int) -> None:
    """What can be said before there are scores.

    Raises:
        ConfigError: neither or both of rate and threshold are given, or the rate selects none of ``size`` samples.
    """
    if (rate is None) == (threshold is None):
        raise ConfigError(f"expected either a detection rate or a threshold, got {rate} and {threshold}")
    if threshold is not None:
        check_range("detection_threshold", threshold, -math.inf, math.inf, include_low=False, include_high=False)
    elif rate != "auto":
        assert rate is not None
        suspect_count(size, rate)


def suspect_count(size: int, rate: float) -> int:
    """``floor(rate * size)``.

    Raises:
        ConfigError: the rate is not in (0, 1), or selects no sample.
    """
    check_range("detection_rate", rate, 0, 1, include_low=False, include_high=False)
    count = int(rate * size + 1e-9)  # .29 * 100 is 28.999999999999996
    if count == 0:
        raise ConfigError(f"expected a detection_rate that selects at least one of {size} samples, got {rate}")
    return count


def automatic_cut(scores: Tensor) -> Tensor:
    """The upper of two groups of scores, if there are two.

    Two normal distributions are fitted to the scores (standardised by median and quartiles, tails clipped at ten). They
    count as two groups if they describe the scores better than one does (Bayesian information criterion), and the upper
    one holds less than half of the samples. A sample is a suspect if it more likely belongs to the upper one.

    Args:
        scores: float, N; as for `select_suspects`.

    Returns:
        bool, N.

    Raises:
        NabError: there are no two groups.
    """
    check_scores(scores)
    allowed = scores > -math.inf
    values = _standardised(scores[allowed].double())
    mixture = _two_groups(values.numpy())
    if mixture is None:
        raise NabError("the scores show no group of suspects that stands apart: give a detection rate in its place")
    upper = int(mixture.means_[:, 0].argmax())
    is_upper = torch.from_numpy(mixture.predict(values[:, None].numpy()) == upper)
    is_upper = values >= values[is_upper].min()  # a wide lower group also reaches beyond the upper one
    if not 0 < int(is_upper.sum()) < len(scores) / 2:
        raise NabError(
            f"{int(is_upper.sum())} of {len(scores)} scores lie in the upper of two groups, expected less than half: "
            "give a detection rate in place of an automatic one"
        )
    is_suspect = torch.zeros(len(scores), dtype=torch.bool)
    is_suspect[allowed] = is_upper
    return is_suspect


def _two_groups(values: np.ndarray) -> GaussianMixture | None:
    """Two normal distributions of float64 values (N), or None if one describes them as well."""
    from sklearn.mixture import GaussianMixture

    column = values[:, None]
    if len(values) < MINIMUM or values.min() == values.max():
        return None
    fits = []
    for share in STARTS:
        middle = np.quantile(values, 1 - share)
        starts = np.array([[values[values <= middle].mean()], [values[values >= middle].mean()]])
        fits.append(GaussianMixture(2, means_init=starts, weights_init=[1 - share, share], random_state=0).fit(column))
    best = max(fits, key=lambda fit: float(fit.score(column)))
    single = GaussianMixture(1).fit(column)
    return best if best.bic(column) < single.bic(column) else None


def _standardised(scores: Tensor) -> Tensor:
    """Median 0, half the distance of the quartiles 1, within [-10, 10]."""
    low, middle, high = torch.quantile(scores, scores.new_tensor([0.25, 0.5, 0.75]))
    spread = (high - low) / 2
    return ((scores - middle) / (spread if spread > 0 else 1.0)).clamp(-10, 10)


def check_scores(scores: Tensor) -> Tensor:
    """The scores, if they are numbers, or minus infinity for some that are never suspects.

    Raises:
        NabError: they are not.
    """
    is_wrong = scores.isnan() | (scores == math.inf)
    if is_wrong.any():
        first = int(is_wrong.nonzero()[0])
        raise NabError(
            f"expected finite suspicion scores, got {scores[first]} for sample {first}; the detector's training "
            "may have diverged"
        )
    if not (scores > -math.inf).any():
        raise NabError(f"expected a sample that may be suspected, got {len(scores)} scores of minus infinity")
    return scores
