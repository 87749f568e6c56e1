"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): two views of an image are alike, two images are not."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import nn

from nab.checks import check_positive, check_range
from nab.selfsupervised.base import SelfSupervised
from nab.selfsupervised.loop import Loss
from nab.selfsupervised.views import Views


@dataclasses.dataclass(frozen=True)
class SimCLR(SelfSupervised):
    """Every view has to find the other view of its image among all others of the batch (NT-Xent).

    The loss of a view with embedding z, whose other view has z', is ``-log(exp(z z' / T) / sum_v exp(z v / T))`` over
    all views v of the batch but itself, embeddings scaled to length one. Both views of an image are anchors, as in the
    paper; the authors of DBD take the first one alone, which is the same in expectation and noisier.

    Attributes:
        epochs: passes over the images. The authors of DBD train for 1000 and offer the encoder of epoch 100 in their
            example, which is a tenth of the cost.
        batch_size: images per step, of two views each.
        lr: of SGD, at the start; in proportion to ``batch_size``.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: by how much the cosine is longer than the training. Here a training of 100 epochs ends its
            cosine; with 900, it is the first tenth of one of 1000, as in that example and in BackdoorBench.
        views: how the two views are drawn.
        temperature: T.
        dimensions: of the embeddings, behind a hidden layer as wide as the features, with batch normalisation.

    Defaults are those of the authors of DBD (Huang, Li, Wu, Qin, Ren, "Backdoor Defense via Decoupling the Training
    Process", ICLR 2022) but for the two named above.
    """

    epochs: int = 100
    batch_size: int = 512
    lr: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    cosine_extra_epochs: int = 0
    views: Views = Views()
    temperature: float = 0.5
    dimensions: int = 128

    summary: ClassVar[str] = "contrastive: every view finds the other view of its image among all images of the batch"
    source: ClassVar[str] = "Chen, Kornblith, Norouzi, Hinton 2020"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("temperature", self.temperature, 0.01, math.inf, include_high=False)
        check_positive("dimensions", self.dimensions)

    def make_head(self, features: int) -> nn.Module:
        from lightly.models.modules.heads import ProjectionHead

        hidden = (features, features, nn.BatchNorm1d(features), nn.ReLU())
        return ProjectionHead([hidden, (features, self.dimensions, None, None)])

    def make_loss(self) -> Loss:
        from lightly.loss import NTXentLoss

        return NTXentLoss(self.temperature)
