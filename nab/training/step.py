"""`Step`: what one update of a training minimizes. Methods differ in their steps, not in their loops."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from nab.training.batches import Batch
from nab.training.predictor import Predictor


class Step(abc.ABC):
    """What one update minimizes. A step may hold other networks, such as a teacher."""

    is_static: ClassVar[bool] = False
    """Whether a CUDA graph may replay the step: every batch runs the same operations on the same tensors, asks for no
    value, and draws random numbers from the source's generator alone. Subclasses do not inherit it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.is_static = vars(cls).get("is_static", False)

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Everything that the step's effect depends on besides its class; see `nab.digest.describe`.

        The trained network is kept under it. It is None, and the network is not kept, if the step cannot say it, or if
        the step collects something that a kept network would lack.
        """
        return None

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:  # noqa: B027 - most steps do nothing here
        """Called before the first batch of every epoch.

        Args:
            epoch: counted from 0.
            predictor: whose network is trained. It may be asked here in any mode: training mode is set afterwards.
        """

    @abc.abstractmethod
    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        """The scalar that is minimized.

        Args:
            predictor: whose network is trained; `Predictor.forward` and `Predictor.apply` give what the network and its
                parts make of normalized images.
            batch: from the training's own source.
            beside: a batch from each further source.
        """


class CrossEntropy(Step):
    """Plain training. A subclass may change what the network sees, and how the losses of a batch become one.

    Args:
        label_smoothing: share of the target spread over all classes, in [0, 1).
    """

    is_static: ClassVar[bool] = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """All attributes of the step, those of subclasses included."""
        return vars(self)

    def images(self, batch: Batch) -> Tensor:
        """What the network sees: float32, B x C x H x W."""
        return batch.images

    def reduce(self, losses: Tensor, batch: Batch) -> Tensor:
        """The scalar that is minimized, from the cross-entropy of every sample (float32, B)."""
        return losses.mean()

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        logits = predictor.forward(self.images(batch))
        losses = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=self.label_smoothing)
        return self.reduce(losses, batch)
