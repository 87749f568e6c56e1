"""KNN, nearest neighbours in self-supervised features (Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination", CVPR 2018): their classifier, as a labeller."""

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
from nab.pseudolabels.base import Labeler, trusted
from nab.selfsupervised import features_recipe, find_features
from nab.stamp import Stamp
from nab.training import Context, Recipe

BATCH_SIZE = 500
"""Samples whose similarities to all others are held at once: 100 MB for 50,000 others."""


@dataclasses.dataclass(frozen=True)
class KNN(Labeler):
    """The class that most of the nearest samples have that are no suspects; a sample has no vote for itself.

    Near is a high cosine of the angle between penultimate features. Unlike one centre per class, neighbours fit a class
    that falls into several groups. The cost grows with the square of the number of samples.

    Attributes:
        k: neighbours that vote; all of them if there are fewer.
        exclude_rate: share of samples, those of the highest scores, that have no vote, besides the suspects, in [0, 1);
            as for `NC`.
        temperature: if given, a vote counts ``exp(similarity / temperature)``; the source has 0.07. None: all count
            one.

    ``k`` is the source's; equal votes are the plainer rule and do not depend on how close the encoder packs a class.
    """

    k: int = 200
    exclude_rate: float = 0.2
    temperature: float | None = None

    summary: ClassVar[str] = "the vote of the nearest neighbours in self-supervised features"
    source: ClassVar[str] = "Wu, Xiong, Yu, Lin 2018"
    needs_features: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_positive("k", self.k)
        check_range("exclude_rate", self.exclude_rate, 0, 1, include_high=False)
        if self.temperature is not None:
            check_range("temperature", self.temperature, 0.01, math.inf, include_high=False)

    def recipe(self, base: Recipe) -> Recipe:
        """Only what features depend on."""
        return features_recipe(base)

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        is_voter = trusted(dataset, is_suspect, context.scores, self.exclude_rate)
        if int(is_voter.sum()) < 2:
            raise NabError(
                f"labeler 'knn': expected at least two samples that may vote, got {int(is_voter.sum())} of "
                f"{len(dataset)}; suspect fewer, or lower exclude_rate"
            )
        features = find_features(dataset, context).to(context.device)
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
        is_voter: bool, N, on the CPU; at least two.
        num_classes: K.
        k: voters per sample; one fewer than there are, for a voter has no vote for itself, if that is less.
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
        # Against the nearest, so that not all weights round to zero.
        weights = (nearest - nearest.amax(1, keepdim=True)).div_(temperature or math.inf).exp_()
        votes = torch.zeros(len(batch), num_classes)  # on the CPU, where sums have a fixed order
        votes.scatter_add_(1, labels[voters][index.cpu()], weights.cpu())
        winners.append(votes.argmax(1))
    return torch.cat(winners)
