"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021): two views agree in every number, no two numbers do."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import nn

from nab.checks import check_positive, check_range
from nab.selfsupervised.base import Loss, SelfSupervised
from nab.selfsupervised.views import Views


@dataclasses.dataclass(frozen=True)
class BarlowTwins(SelfSupervised):
    """The correlation matrix of the embeddings of two views comes near the identity. Other images play no part.

    The loss is ``sum_i (1 - C_ii)^2 + redundancy sum_(i != j) C_ij^2``, where C_ij is the correlation over the batch
    between number i of one view's embedding and number j of the other's (the paper's equations 1 and 2).

    As in the paper's Algorithm 1, each view passes the network by itself, so that batch normalization takes its
    statistics from one view at a time. The loss divides by the root of the mean square deviation, as equation 1 and the
    authors' code do. Algorithm 1 divides by torch's ``std``, which makes every correlation smaller by a factor
    of (B - 1) / B.

    Attributes:
        epochs: passes over the images. The default is that of `SimCLR`, so that both cost the same.
        batch_size: images per step; each has two views. The default is that of `SimCLR`.
        lr: learning rate of SGD at the start.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: by how much the cosine is longer than the training.
        views: how the two views are drawn.
        redundancy: weight of the correlations off the diagonal (the paper's lambda).
        dimensions: of the embeddings and of both hidden layers before them. The paper has 8192 for ImageNet. For
            CIFAR-10, 2048 is usual and takes a quarter of the memory.

    ``lr``, ``momentum``, ``weight_decay`` and ``redundancy`` are the numbers in the code of NAB's authors, for
    CIFAR-10. The paper trains with LARS on ImageNet.
    """

    epochs: int = 100
    batch_size: int = 512
    lr: float = 0.11
    momentum: float = 0.9
    weight_decay: float = 5e-4
    cosine_extra_epochs: int = 0
    views: Views = Views()
    redundancy: float = 5e-3
    dimensions: int = 2048

    joins_views: ClassVar[bool] = False

    summary: ClassVar[str] = "views agree in every number of their embedding, and the numbers are uncorrelated"
    source: ClassVar[str] = "Zbontar, Jing, Misra, LeCun, Deny 2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("redundancy", self.redundancy, 0, math.inf, include_low=False, include_high=False)
        check_positive("dimensions", self.dimensions)

    def make_head(self, features: int) -> nn.Module:
        from lightly.models.modules.heads import BarlowTwinsProjectionHead

        return BarlowTwinsProjectionHead(features, self.dimensions, self.dimensions)

    def make_loss(self) -> Loss:
        from lightly.loss import BarlowTwinsLoss

        return BarlowTwinsLoss(self.redundancy)
