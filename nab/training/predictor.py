"""`Predictor`: a trained network with everything that belongs in front of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nab.models import ResNet
from nab.stamp import Stamp
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime

BATCH_SIZE = 500
"""Images of 32 x 32 per forward pass: large enough to fill a device, small enough for a laptop's memory."""


def fitting(size: int, images: Tensor) -> int:
    """How many of ``images`` (... x H x W) take the memory of ``size`` images of 32 x 32: 1 to ``size``."""
    return max(1, min(size, size * 32 * 32 // (images.shape[-2] * images.shape[-1])))


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """What is evaluated: normalisation, the defence's change of the input, the network.

    Attributes:
        model: maps normalised images to logits.
        recipe: whose normalisation the model was trained with.
        runtime: where and how it computes.
        stamp: written on every input; None for none.
    """

    model: ResNet
    recipe: Recipe
    runtime: Runtime
    stamp: Stamp | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """Everything that its answers depend on; see `nab.digest.describe`."""
        recipe = {"mean": self.recipe.mean, "std": self.recipe.std}
        return {"weights": self.model.state_dict(), "stamp": self.stamp} | recipe

    def with_stamp(self, stamp: Stamp | None) -> Predictor:
        """The same network behind another stamp, or none."""
        return dataclasses.replace(self, stamp=stamp)

    def logits(self, images: Tensor) -> Tensor:
        """float32, N x K, on the device; ``images`` is uint8, N x C x H x W. The model is left in evaluation mode."""
        return torch.cat(list(self._run(self.model, images)))

    def features(self, images: Tensor) -> Tensor:
        """The model's penultimate features, from which its last layer makes the logits; float32, N x D, on the device.
        ``images`` is uint8, N x C x H x W."""
        return torch.cat(list(self._run(self.model.features, images)))

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """The same before the average over space, batch by batch, for they are large; float32, B x D x h x w."""
        return self._run(self.model.maps, images)

    @torch.no_grad()
    def _run(self, part: Callable[[Tensor], Tensor], images: Tensor) -> Iterator[Tensor]:
        """What a part of the model makes of every batch."""
        self.model.eval()
        for batch in images.split(fitting(BATCH_SIZE, images)):
            inputs = self.recipe.normalise(batch.to(self.runtime.device, non_blocking=True))
            if self.stamp is not None:
                inputs = self.stamp.apply(inputs)
            yield self.apply(part, inputs)

    def apply(self, part: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What a part of the model makes of normalised inputs (float32, B x C x H x W, on the device), in the precision
        and layout of the runtime; float32. Without the stamp, and differentiable."""
        with self.runtime.autocast():
            return part(self.runtime.lay_out(inputs)).float()

    def predict(self, images: Tensor) -> Tensor:
        """The most likely class; int64, N, on the CPU."""
        return self.logits(images).argmax(1).cpu()
