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
from nab.training import Context, Output, Recipe


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Finds training samples that are likely poisoned.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `score` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give other scores, so that scores kept before are not used."""

    is_oracle: ClassVar[bool] = False
    """Whether it reads the ground truth, which only ablations may."""

    needs_verified: ClassVar[bool] = False
    """Whether it needs a small set of clean, correctly labelled images."""

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's own network is trained, from the final network's recipe; ``base`` itself by default."""
        return base

    @abc.abstractmethod
    def score(self, dataset: Dataset, context: Context) -> Tensor:
        """Suspicion of every sample: float32, N, on the CPU, higher = more suspicious."""


def find_scores(detector: Detector, dataset: Dataset, context: Context) -> Tensor:
    """The detector's scores and notes, kept as a stage; of the truth only an oracle sees anything.

    Raises:
        NabError: a score is not a number.
    """
    if detector.is_oracle:
        return _checked(detector.score(dataset, context))
    own = dataclasses.replace(
        context, truth=None, verified=context.verified if detector.needs_verified else None, notes={}
    )
    inputs = {
        "version": detector.version,
        "detector": detector,
        "dataset": dataset,
        "verified": own.verified,
        "recipe": detector.recipe(context.recipe).effective(),
        "model": context.model,
        "width": context.width,
        "seed": context.seed,
    }

    def make() -> Output:
        scores = _checked(detector.score(dataset, own))
        return Output({"scores": scores} | {f"note {name}": value for name, value in own.notes.items()})

    found = context.keep("scores", inputs, make).tensors
    context.notes.update({name.removeprefix("note "): found[name] for name in found if name != "scores"})
    return found["scores"]


def _checked(scores: Tensor) -> Tensor:
    """The scores, if they are numbers."""
    finite = scores.isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise NabError(
            f"expected finite suspicion scores, got {scores[first]} for sample {first}; the detector's training "
            "may have diverged"
        )
    return scores


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
    _checked(scores)
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
