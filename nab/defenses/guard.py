"""`Guard`: a trained network behind the stamp, with NAB's test-data filter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nab.stamp import Stamp

REJECTED = -1
"""What `Guard.predict` answers for an image that it rejects."""


class Guard(nn.Module):
    """Stamps every input before the network sees it.

    Args:
        model: maps normalised images (float, N x C x H x W) to logits; trained on what `NAB.transform` returned.
        stamp: the one it was trained with.
    """

    def __init__(self, model: nn.Module, stamp: Stamp) -> None:
        super().__init__()
        self.model = model
        self.stamp = stamp
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the stamped images; float, N x K."""
        logits: Tensor = self.model(self.stamp.apply(images))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor, *, reject: bool = False) -> Tensor:
        """The most likely class; int64, N. Every layer is left in the mode it was in.

        Args:
            images: float, N x C x H x W, normalised as in training.
            reject: whether to answer `REJECTED` (-1) where the network answers differently without the stamp, as
                NAB's test-data filter does. Such an image may carry a trigger, or the stamp may have cost it its class.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            labels = self(images).argmax(1)
            if reject:
                labels = torch.where(self.model(images).argmax(1) == labels, labels, REJECTED)
        finally:
            for module, mode in modes:  # a frozen layer inside a model in training mode stays frozen
                module.training = mode
        return labels
