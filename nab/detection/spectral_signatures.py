"""Spectral signatures (Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018).

The features of poisoned samples have another mean than those of the clean samples of their class. The first principal
axis of the class points along that difference, and the poisoned samples lie farthest out on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.detection.gating import gate_classes
from nab.detection.latent import check_classes, check_finite, judged_classes, principal_axes
from nab.needs import Given
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class SpectralSignatures(Detector):
    """The score is the squared projection of a sample's features on the first principal axis of its class.

    Attributes:
        is_centered: whether the class's mean is subtracted before features are projected, as in the paper. The authors'
            code and BackdoorBench take the axis of centered features but project the features as they are, so that the
            side of the mean counts as well. The default is the paper's.

    The paper filters every class and removes 1.5 times as many samples as are poisoned, a number that must be known.
    Here the class of the largest ratio of first to second variance is suspected, for a shifted mean makes one axis
    stand out. The ratio is this library's choice; the paper orders no classes.
    """

    is_centered: bool = True

    summary: ClassVar[str] = "the first principal axis of a class's features points from its clean to its poisoned part"
    source: ClassVar[str] = "Tran, Li, Madry 2018"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model"})
    judges_classes: ClassVar[bool] = True

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        check_classes(dataset.labels)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        features, labels = given.require_attacked().predictor.features(dataset.images).cpu(), dataset.labels
        scores, statistics = spectral_scores(features, labels, dataset.num_classes, is_centered=self.is_centered)
        return Scored(gate_classes(scores, labels, statistics), {"statistics": statistics})


def spectral_scores(
    features: Tensor, labels: Tensor, num_classes: int, *, is_centered: bool = True
) -> tuple[Tensor, Tensor]:
    """Squared projections, and how much the first axis of each class stands out.

    Args:
        features: float, N x D.
        labels: int64, N; the observed ones.
        num_classes: K.
        is_centered: see `SpectralSignatures`.

    Returns:
        float32, N, zero in classes that were not judged, and float32, K, the ratio of the first to the second variance
        of each class, at least 1; NaN for a class of too few samples or without variance.

    Raises:
        NabError: see `check_classes` and `check_finite`.
    """
    check_classes(labels)
    check_finite(features)
    scores, statistics = torch.zeros(len(labels)), torch.full((num_classes,), math.nan)
    for label, members in judged_classes(labels, num_classes).items():
        own = features[members].double()
        axes, variances = principal_axes(own, 2)
        if not len(variances):
            continue
        if is_centered:
            own -= own.mean(0)
        scores[members] = (own @ axes[:, 0]).square().float()
        # If a class varies along one axis only, the ratio is as large as the axes' precision allows, but finite.
        second = variances[1] if len(variances) > 1 else 1e-9 * variances[0]
        statistics[label] = float(variances[0] / second)
    return scores, statistics
