"""Spectral signatures (Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018).

Poisoned samples shift the mean of their class's features. The first principal axis of the class points along that
shift, and the poisoned samples lie farthest out on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.detection.base import Detector
from nab.detection.gating import gate_classes
from nab.detection.latent import check_classes, check_finite, judged_classes, latent_features, principal_axes
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class SpectralSignatures(Detector):
    """The score is the squared projection of a sample's features on the first principal axis of its class.

    Attributes:
        is_centred: whether the features are projected less their class's mean, as the paper has it. The authors' code
            and BackdoorBench take the axis of centred features but project them as they are, which ranks by the side of
            the mean as well; the paper is followed.

    The paper looks at every class and removes 1.5 times as many samples as there are poisoned ones, which must be
    known. Here the class with the largest ratio of first to second variance is looked at, for a shifted mean makes one
    axis stand out; that ratio is this library's choice, the paper names none.
    """

    is_centred: bool = True

    summary: ClassVar[str] = "the first principal axis of a class's features points from its clean to its poisoned part"
    source: ClassVar[str] = "Tran, Li, Madry 2018"
    judges_classes: ClassVar[bool] = True

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        features = latent_features(dataset, context)
        scores, statistics = spectral_scores(features, dataset.labels, dataset.num_classes, is_centred=self.is_centred)
        context.notes["spectral_signatures_statistics"] = statistics
        return gate_classes(scores, dataset.labels, statistics)


def spectral_scores(
    features: Tensor, labels: Tensor, num_classes: int, *, is_centred: bool = True
) -> tuple[Tensor, Tensor]:
    """Squared projections, and how much the first axis of each class stands out.

    Args:
        features: float, N x D.
        labels: int64, N; the observed ones.
        num_classes: K.
        is_centred: see `SpectralSignatures`.

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
        if is_centred:
            own -= own.mean(0)
        scores[members] = (own @ axes[:, 0]).square().float()
        # A class that varies along one axis only: the ratio is as large as numbers allow, but finite.
        second = variances[1] if len(variances) > 1 else 1e-9 * variances[0]
        statistics[label] = float(variances[0] / second)
    return scores, statistics
