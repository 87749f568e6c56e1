"""KNN: the nearest neighbors in self-supervised features vote for a label.

Source: the classifier of Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_positive, check_range
from nab.data import Dataset
from nab.errors import NabError
from nab.needs import Given
from nab.pseudolabels.base import Labeler, trusted
from nab.selfsupervised import features_recipe, find_features
from nab.training import Recipe, Trainer

BATCH_SIZE = 500
"""Samples per block of similarities; a block takes 100 MB for 50,000 voters."""


@dataclasses.dataclass(frozen=True)
class KNN(Labeler):
    """Every sample gets the label that most of its nearest neighbors have.

    Suspects have no vote, and no sample votes for itself.

    Two samples are near if the angle between their penultimate features has a high cosine. Neighbors also fit a class
    that falls into several groups, which one center per class does not. The cost grows with the square of the number of
    samples.

    Attributes:
        k: neighbors that vote; all others vote if there are fewer.
        exclude_rate: share of all samples, those with the highest scores, that has no vote besides the suspects; in
            [0, 1). See `NC`.
        temperature: weighs a vote by ``exp(similarity / temperature)``; the source has 0.07. With None, all votes count
            the same.

    ``k`` is the source's. Equal votes are the simpler rule and do not depend on how densely the encoder packs a class.
    """

    k: int = 200
    exclude_rate: float = 0.2
    temperature: float | None = None

    summary: ClassVar[str] = "the vote of the nearest neighbors in self-supervised features"
    source: ClassVar[str] = "Wu, Xiong, Yu, Lin 2018"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "suspects"})

    def __post_init__(self) -> None:
        check_positive("k", self.k)
        check_range("exclude_rate", self.exclude_rate, 0, 1, include_high=False)
        if self.temperature is not None:
            check_range("temperature", self.temperature, 0.01, math.inf, include_high=False)

    def recipe(self, base: Recipe) -> Recipe:
        """The part of the recipe that features depend on."""
        return features_recipe(base)

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        is_voter = trusted(dataset, given.require_suspicion(), self.exclude_rate)
        if int(is_voter.sum()) < 2:
            raise NabError(
                f"labeler 'knn': expected at least two samples that may vote, got {int(is_voter.sum())} of "
                f"{len(dataset)}; suspect fewer, or lower exclude_rate"
            )
        features = find_features(dataset, given.require_encoder()).to(trainer.device)
        return vote(features, dataset.labels, is_voter, dataset.num_classes, k=self.k, temperature=self.temperature)


def vote(
    features: Tensor,
    labels: Tensor,
    is_voter: Tensor,
    num_classes: int,
    *,
    k: int,
    temperature: float | None = None,
) -> Tensor:
    """The class for which each sample's nearest voters vote.

    Args:
        features: float32, N x D; scaled to length one here.
        labels: int64, N, on the CPU.
        is_voter: bool, N, on the CPU; at least two are True.
        num_classes: K.
        k: voters per sample; at most one fewer than there are, because a voter has no vote for itself.
        temperature: see `KNN`.

    Returns:
        int64, N, on the CPU; the lower class if votes are equal.
    """
    features = F.normalize(features)
    voters = is_voter.nonzero().squeeze(1)
    k = min(k, len(voters) - 1)
    place = torch.full((len(features),), -1)
    place[voters] = torch.arange(len(voters))
    known, place = features[voters.to(features.device)].T, place.to(features.device)
    winners = []
    for position, batch in enumerate(features.split(BATCH_SIZE)):
        similarity = batch @ known
        own = place[position * BATCH_SIZE :][: len(batch)]
        rows = (own >= 0).nonzero().squeeze(1)
        similarity[rows, own[rows]] = -math.inf
        nearest, index = similarity.topk(k, sorted=False)
        # Relative to the nearest voter, so that not all weights round to zero.
        weights = (nearest - nearest.amax(1, keepdim=True)).div_(temperature or math.inf).exp_()
        votes = torch.zeros(len(batch), num_classes)  # on the CPU, which adds in a fixed order
        votes.scatter_add_(1, labels[voters][index.cpu()], weights.cpu())
        winners.append(votes.argmax(1))
    return torch.cat(winners)
