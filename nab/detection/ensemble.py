"""An ensemble of detectors (ours): samples that several detectors of different kinds suspect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nab.checks import check_choice, check_range
from nab.data import Dataset
from nab.detection.base import Detector, find_scores
from nab.errors import ConfigError
from nab.training import Context

WEIGHTS = ("equal", "agreement")


@dataclasses.dataclass(frozen=True)
class Member:
    """A detector of an ensemble.

    Attributes:
        name: a key of `nab.detection.DETECTORS`.
        params: its hyper-parameters; those not named have the source's values, which the ensemble fills in.
    """

    name: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Ensemble(Detector):
    """Adds up how surprising a sample's place is in the order of every member.

    A member that ranks a sample r-th of N says that so high a place has the probability ``r / N`` by chance. The score
    is the weighted sum of ``-ln(r / N)`` over the members, as Fisher combines independent tests: a place at the very
    top counts for more than several in the upper half. Members with ties share the mean of their ranks.

    The members are of four kinds: one watches how fast a sample is learned, one the features of a class, one what
    overlays do to the answer, one how far features move. They were chosen among those here by looking at BadNets and
    Blend on a part of CIFAR-10.

    The members' scores are stages of their own, shared with runs that use a member alone.

    Attributes:
        members: at least two.
        weights: ``"equal"``, or ``"agreement"``: every member's own accuracy, estimated without labels; see
            `agreement_weights`.
        rate: share of samples at the top of every member's order that its agreement with the others is measured on.
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
        object.__setattr__(self, "members", spelled)  # so that a member's default, changed later, is another ensemble

    @property
    def _detectors(self) -> dict[str, Detector]:
        from nab.detection import make_detector  # it knows this class

        return {member.name: make_detector(member.name, dict(member.params)) for member in self.members}

    @property
    def version(self) -> int:  # type: ignore[override]
        return 1 + sum(detector.version - 1 for detector in self._detectors.values())

    @property
    def is_oracle(self) -> bool:  # type: ignore[override]  # depends on the members
        return any(detector.is_oracle for detector in self._detectors.values())

    @property
    def needs_verified(self) -> bool:  # type: ignore[override]
        return any(detector.needs_verified for detector in self._detectors.values())

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        return any(detector.needs_features for detector in self._detectors.values())

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        scores = [find_scores(detector, dataset, context) for detector in self._detectors.values()]
        surprises = torch.stack([surprise(each) for each in scores])
        weights = torch.ones(len(scores), dtype=torch.float64)
        if self.weights == "agreement":
            weights = agreement_weights(surprises, self.rate)
        context.notes["ensemble_weights"] = weights / weights.sum()
        return (weights / weights.sum() @ surprises).float()


def surprise(scores: Tensor) -> Tensor:
    """``-ln`` of a sample's rank from the top, as a share of all; ties share the mean of their ranks.

    Args:
        scores: float, N; minus infinity = never a suspect.

    Returns:
        float64, N; 0 at the bottom, ``ln N`` at the top.
    """
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    above = sizes.flip(0).cumsum(0).flip(0) - sizes
    ranks = above + (sizes + 1) / 2
    return -(ranks.double() / len(scores)).log()[group]


def agreement_weights(surprises: Tensor, rate: float) -> Tensor:
    """How much each member is worth, from how often its suspects are those of the others.

    If members err independently, the covariance of their verdicts has rank one off its diagonal, and its leading
    vector is proportional to how far each is better than chance (Parisi, Strino, Nadler, Kluger, "Ranking and
    combining multiple predictors without labeled data", PNAS 2014). The diagonal is not part of that and is found by
    iteration. With two members nothing can be told, and both count alike.

    Args:
        surprises: float64, M x N; higher = more suspicious.
        rate: share of samples that every member suspects.

    Returns:
        float64, M; at least 0, not all 0: a member that agrees with none counts nothing, unless no two members agree.
    """
    members, count = surprises.shape
    if members < 3:
        return torch.ones(members, dtype=torch.float64)
    top = max(1, math.floor(rate * count))
    verdicts = torch.zeros_like(surprises)
    verdicts.scatter_(1, surprises.argsort(dim=1, descending=True, stable=True)[:, :top], 1.0)
    verdicts *= surprises > surprises.amin(1, keepdim=True)  # the bottom holds all who are never suspected
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
"""Of the search for the diagonal; it converges in a few dozen."""
