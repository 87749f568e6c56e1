"""From scores to suspects: by a rate, by a threshold, or by a gap in the scores."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nab.checks import check_range
from nab.errors import ConfigError, NabError

Rate = float | Literal["auto"]
"""A share of the samples, in (0, 1), or ``"auto"``, see `automatic_cut`."""

MINIMUM = 10
"""The fewest scores in which groups are sought."""

SMALLEST_GROUP = 0.01
"""The least share of all samples above a gap: a few scores in the tail of one group leave gaps by chance."""

DEEPEST = 0.5
"""The highest density in a gap, as a share of the lower peak beside it. Thousands of scores from one normal,
log-normal, uniform, exponential or Student distribution hardly ever leave a deeper gap."""

BINS = 4096


def select_suspects(scores: Tensor, rate: Rate | None = None, *, threshold: float | None = None) -> Tensor:
    """The samples with the highest scores.

    Args:
        scores: float, N; higher = more suspicious, minus infinity = never a suspect.
        rate: share of samples to suspect, in (0, 1): ``floor(rate * N)`` of them, or fewer if fewer may be suspected.
            Of equal scores, the sample that stands first is suspected. Or ``"auto"``, see `automatic_cut`.
        threshold: in place of a rate: all samples that score above it are suspected.

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
    """Whether rate and threshold can be used, before there are scores.

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
    """All samples above the deepest gap in the scores.

    The median is subtracted from the scores, and they are divided by half the distance of their quartiles and passed
    through the inverse hyperbolic sine, so that a long tail is no group. A Gaussian kernel of Silverman's bandwidth
    estimates their density. A gap is where the density falls below half of the lower of the two peaks beside it, if at
    least a hundredth and less than half of the samples lie above.

    Args:
        scores: float, N; as for `select_suspects`.

    Returns:
        bool, N.

    Raises:
        NabError: there is no such gap.
    """
    check_scores(scores)
    allowed = scores > -math.inf
    values = _standardized(scores[allowed].double())
    cut = _gap(values.numpy(), len(scores))
    if cut is None:
        raise NabError("the scores show no group of suspects that stands apart: give a detection rate in its place")
    is_suspect = torch.zeros(len(scores), dtype=torch.bool)
    is_suspect[allowed] = values > cut
    return is_suspect


def _gap(values: np.ndarray, size: int) -> float | None:
    """The middle of the deepest gap in float64 ``values``, or None; ``size`` counts the samples without a value too."""
    from scipy.ndimage import gaussian_filter1d

    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(), (high - low) / 1.34)
    if len(values) < MINIMUM or spread == 0:
        return None
    width = 0.9 * spread * len(values) ** -0.2
    edges = np.linspace(values.min() - 3 * width, values.max() + 3 * width, BINS + 1)
    counts, _ = np.histogram(values, edges)
    density = gaussian_filter1d(counts.astype(float), width / (edges[1] - edges[0]), mode="constant")
    peak_below, peak_above = np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1]
    above = len(values) - counts.cumsum()
    depth = density / np.minimum(peak_below, peak_above).clip(min=1e-12)
    depth[(above < SMALLEST_GROUP * size) | (above >= size / 2)] = 1.0
    if depth.min() >= DEEPEST:
        return None
    bottom = (depth == depth.min()).nonzero()[0]
    return float(edges[1:][bottom[len(bottom) // 2]])


def _standardized(scores: Tensor) -> Tensor:
    """The scores with median 0 and quartiles 2 apart, logarithmic far away from the median."""
    low, middle, high = torch.quantile(scores, scores.new_tensor([0.25, 0.5, 0.75]))
    spread = (high - low) / 2
    return ((scores - middle) / (spread if spread > 0 else 1.0)).asinh()


def check_scores(scores: Tensor, count: int | None = None) -> Tensor:
    """The scores themselves, as float32 on the CPU.

    Args:
        scores: float, N.
        count: N, if it is known.

    Raises:
        ConfigError: there are more or fewer.
        NabError: a score is NaN or infinite, or all are minus infinity, which stands for "never a suspect".
    """
    if count is not None and scores.shape != (count,):
        raise ConfigError(f"expected a score for each of {count} samples, got {tuple(scores.shape)}")
    is_wrong = scores.isnan() | (scores == math.inf)
    if is_wrong.any():
        first = int(is_wrong.nonzero()[0])
        raise NabError(
            f"expected finite suspicion scores, got {scores[first]} for sample {first}; the detector's training "
            "may have diverged"
        )
    if not (scores > -math.inf).any():
        raise NabError(f"expected a sample that may be suspected, got {len(scores)} scores of minus infinity")
    return scores if count is None else scores.float().cpu()
