"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020): two views of an image are alike, two images are not."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import nn

from nab.checks import check_positive, check_range
from nab.selfsupervised.base import Loss, SelfSupervised
from nab.selfsupervised.views import Views


@dataclasses.dataclass(frozen=True)
class SimCLR(SelfSupervised):
    """Every view has to find the other view of its image among all others of the batch (NT-Xent).

    Embeddings are scaled to length one. For a view with the embedding z, whose image has the other view z', the loss is
    ``-log(exp(z z' / T) / sum_v exp(z v / T))``; v goes over all views of the batch but z itself. Both views of an
    image have a loss, as in the paper. The authors of DBD take the first view's alone, which has the same expectation
    and more noise.

    Attributes:
        epochs: passes over the images. The authors of DBD train for 1000 epochs; their example takes the encoder after
            100, which costs a tenth.
        batch_size: images per step; each has two views.
        lr: learning rate of SGD at the start. It belongs to ``batch_size``: change both in proportion.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: by how much the cosine is longer than the training. With 0, the cosine ends with the
            training. With 900, 100 epochs are the first tenth of 1000, as in DBD's example and in BackdoorBench.
        views: how the two views are drawn.
        temperature: T.
        dimensions: of the embeddings. The head has one hidden layer, as wide as the features, with batch normalization.

    Defaults are those of the authors of DBD (Huang, Li, Wu, Qin, Ren, "Backdoor Defense via Decoupling the Training
    Process", ICLR 2022), but for ``epochs`` and ``cosine_extra_epochs``.
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
