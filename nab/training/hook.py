"""`Hook`: how a method's training differs from plain training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor


class Hook:
    """What a method may change in every batch; this one changes nothing.

    Attributes:
        inputs: everything that the hook's effect depends on (see `nab.digest.describe`), so that the trained network
            can be kept; None if it cannot be said, or if the hook itself collects something.
        is_static: whether every batch runs the same operations on the same tensors, without asking for a value, so
            that a CUDA graph may replay them.
    """

    inputs: Mapping[str, Any] | None = None
    is_static: ClassVar[bool] = False

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of every epoch, counted from 0."""

    def images(self, images: Tensor, index: Tensor) -> Tensor:
        """The batch that the network sees.

        Args:
            images: float32, B x C x H x W, augmented and normalised.
            index: int64, B; the samples' positions in the training set.
        """
        return images

    def loss(self, losses: Tensor, logits: Tensor, index: Tensor) -> Tensor:
        """The scalar that is minimised.

        Args:
            losses: float32, B; the cross-entropy of every sample.
            logits: B x K, as the network gave them.
            index: as for `images`.
        """
        return losses.mean()


class PlainHook(Hook):
    """Plain training."""

    inputs: Mapping[str, Any] | None = {}
    is_static: ClassVar[bool] = True
