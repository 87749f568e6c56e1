"""An ensemble of detectors, which is this library's own: it suspects what several kinds of detectors suspect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nab.checks import check_choice, check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored, find_scores
from nab.digest import digest
from nab.errors import ConfigError
from nab.needs import Given
from nab.registry import build
from nab.training import Trainer

WEIGHTS = ("equal", "agreement")


@dataclasses.dataclass(frozen=True)
class Member:
    """A detector of an ensemble.

    Attributes:
        name: a key of `nab.detection.DETECTORS`.
        params: its hyper-parameters. The ensemble fills in the source's values for those that are not named.
    """

    name: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def detector(self) -> Detector:
        """The detector itself.

        Raises:
            ConfigError: the name or a parameter is not valid.
        """
        from nab.detection import DETECTORS  # imported late, for it holds the ensemble

        made: Detector = build("detector", self.name, DETECTORS, self.params)
        return made

    @property
    def digest(self) -> str:
        """That of the detector, in which parameters with the source's values play no part; see `nab.digest`."""
        return digest(self.detector)


@dataclasses.dataclass(frozen=True)
class Ensemble(Detector):
    """The score is the sum of how surprising a sample's rank is to every member.

    By chance, a sample's rank among N is r or higher with the probability ``r / N``. The score is the weighted sum of
    ``-ln(r / N)`` over the members, as Fisher combines independent tests. A rank at the very top counts for more than
    several ranks in the upper half. Samples of equal scores share the mean of their ranks.

    The default members are of four kinds. LGA measures how fast a sample is learned, SCAn compares the features within
    a class, STRIP watches answers under overlays, and FCT watches features under rotations. They were chosen by their
    results on BadNets and Blend on a part of CIFAR-10.

    The members' scores are stages of their own, which a run that uses a member alone shares.

    Attributes:
        members: at least two, each another detector, and no ensemble.
        weights: ``"equal"``, or ``"agreement"``: an estimate of every member's accuracy, see `agreement_weights`.
        rate: share of samples at the top of every member's order on which the agreement is measured, in (0, 1).
    """

    members: tuple[Member, ...] = (Member("lga"), Member("scan"), Member("strip"), Member("fct"))
    weights: str = "agreement"
    rate: float = 0.05

    summary: ClassVar[str] = "several detectors together, each as far as the others agree with it"
    source: ClassVar[str] = "ours; weights after Parisi, Strino, Nadler, Kluger 2014"

    def __post_init__(self) -> None:
        check_choice("weights", self.weights, WEIGHTS)
        check_range("rate", self.rate, 0, 1, include_low=False, include_high=False)
        names = [member.name for member in self.members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"expected at least two members, each another detector, got {names}")
        detectors = self._detectors
        if any(isinstance(detector, Ensemble) for detector in detectors.values()):
            raise ConfigError("expected members that are no ensembles themselves")
        spelled = tuple(Member(name, dataclasses.asdict(detector)) for name, detector in detectors.items())
        object.__setattr__(self, "members", spelled)  # so that it says all of its settings

    @property
    def _detectors(self) -> dict[str, Detector]:
        return {member.name: member.detector for member in self.members}

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # depends on the members
        return frozenset().union(*(detector.needs for detector in self._detectors.values()))

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        for detector in self._detectors.values():
            detector.check(dataset, trainer, verified)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        found = [find_scores(detector, dataset, trainer, given.copy()) for detector in self._detectors.values()]
        surprises = torch.stack([surprise(each.scores) for each in found])
        weights = torch.ones(len(found), dtype=torch.float64)
        if self.weights == "agreement":
            weights = agreement_weights(surprises, self.rate)
        shares = weights / weights.sum()
        return Scored((shares @ surprises).float(), {"weights": shares})


def surprise(scores: Tensor) -> Tensor:
    """``-ln(r / N)`` for rank r from the top; equal scores share the mean of their ranks.

    Args:
        scores: float, N; minus infinity = never a suspect.

    Returns:
        float64, N; from 0 at the bottom to ``ln N`` at the top.
    """
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    above = sizes.flip(0).cumsum(0).flip(0) - sizes
    ranks = above + (sizes + 1) / 2
    return -(ranks.double() / len(scores)).log()[group]


def agreement_weights(surprises: Tensor, rate: float) -> Tensor:
    """How accurate each member is, estimated from how often its suspects are those of the others.

    If members err independently, the covariance of their verdicts has rank one outside of its diagonal, and its leading
    vector is proportional to how far each member is better than chance (Parisi, Strino, Nadler, Kluger, "Ranking and
    combining multiple predictors without labeled data", PNAS 2014). The diagonal of the matrix of rank one is found by
    iteration. Two members do not tell which is better, and count alike.

    Args:
        surprises: float64, M x N; higher = more suspicious.
        rate: share of samples that every member suspects.

    Returns:
        float64, M; at least 0, not all 0. A member that agrees with no other one gets 0; if no two agree, all get 1.
    """
    members, count = surprises.shape
    if members < 3:
        return torch.ones(members, dtype=torch.float64)
    top = max(1, math.floor(rate * count))
    verdicts = torch.zeros_like(surprises)
    verdicts.scatter_(1, surprises.argsort(dim=1, descending=True, stable=True)[:, :top], 1.0)
    verdicts *= surprises > surprises.amin(1, keepdim=True)  # samples that are never suspected stand at the bottom
    covariance = torch.cov(verdicts)
    shared = covariance - covariance.diagonal().diag()
    if (shared <= 0).all():
        return torch.ones(members, dtype=torch.float64)
    for _ in range(ITERATIONS):
        values, vectors = torch.linalg.eigh(shared)
        leading = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
        shared = shared - shared.diagonal().diag() + (leading**2).diag()
    return (leading * torch.sign(leading.sum())).clamp(min=0)


ITERATIONS = 100
"""Steps of the search for the diagonal, which converges in a few dozen."""
