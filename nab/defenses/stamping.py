"""Training with a stamp, which defenses that plant a backdoor of their own share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Normalization
from nab.stamp import Stamp
from nab.training import Batch, CrossEntropy


class StampedTraining(CrossEntropy):
    """Plain training with the stamp on chosen samples, written after all augmentation.

    Args:
        stamp: what is written where.
        is_stamped: bool, N; who gets it.
        normalization: of the images.
        device: where the training runs.
        label_smoothing: see `CrossEntropy`.
    """

    is_static: ClassVar[bool] = True

    def __init__(
        self,
        stamp: Stamp,
        is_stamped: Tensor,
        normalization: Normalization,
        device: torch.device,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        self.stamp, self.normalization = stamp, normalization
        self.is_stamped = is_stamped.to(device)

    def images(self, batch: Batch) -> Tensor:
        return self.stamp.apply(batch.images, self.is_stamped[batch.positions], normalization=self.normalization)
