"""What all detectors share: a score per training sample, and one rule that turns scores into suspects."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_range
from nab.data import Dataset
from nab.errors import ConfigError, NabError
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Finds training samples that are likely poisoned.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `score` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    is_oracle: ClassVar[bool] = False
    """Whether it reads the ground truth, which only ablations may."""

    @abc.abstractmethod
    def score(self, dataset: Dataset, context: Context) -> Tensor:
        """Suspicion of every sample: float32, N, on the CPU, higher = more suspicious."""


def select_suspects(scores: Tensor, rate: float) -> Tensor:
    """The ``floor(rate * N)`` samples with the highest scores; ties go to the sample that stands first.

    Args:
        scores: float, N, finite.
        rate: share of samples to suspect, in (0, 1).

    Returns:
        bool, N.

    Raises:
        ConfigError: the rate is out of its range or selects no sample.
        NabError: a score is not finite.
    """
    count = suspect_count(len(scores), rate)
    finite = scores.isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise NabError(
            f"expected finite suspicion scores, got {scores[first]} for sample {first}; the detector's training "
            "may have diverged"
        )
    is_suspect = torch.zeros(len(scores), dtype=torch.bool)
    is_suspect[scores.argsort(descending=True, stable=True)[:count]] = True
    return is_suspect


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
