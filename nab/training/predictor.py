"""`Predictor`: a network, the normalization of its inputs, and where and how it computes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nab.data import Normalization
from nab.digest import digest
from nab.models import Architecture, structure
from nab.training.runtime import Runtime
from nab.training.weights import pack_weights

BATCH_SIZE = 500
"""Images of 32 x 32 per forward pass: large enough to fill a device, small enough for a laptop's memory."""

Change = Callable[[Tensor], Tensor]
"""Changes normalized images (float32, B x C x H x W, on the device) just before the network sees them."""


def fitting(size: int, images: Tensor) -> int:
    """How many of ``images`` (... x H x W) take the memory of ``size`` images of 32 x 32: 1 to ``size``."""
    return max(1, min(size, size * 32 * 32 // (images.shape[-2] * images.shape[-1])))


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network, the normalization of its inputs, and where and how it computes.

    Attributes:
        network: maps normalized images to logits; see `nab.models.Network`.
        normalization: of the images that the network was trained on.
        runtime: where and how the network computes.
        architecture: makes the network again; None for a network that was handed over.
        classes: the names of the classes, one per logit.
        shape: C, H and W of an image.
        fixed: the names of the parameters that no training changes, such as those of a layer that its architecture
            leaves without gradients.
    """

    network: Any  # an nn.Module that follows `Network`; a protocol cannot say that it is a module too
    normalization: Normalization
    runtime: Runtime
    architecture: Architecture | None = None
    classes: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (3, 32, 32)
    fixed: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of everything that the answers depend on.

        Raises:
            NoSource: the network has a part that cannot be told apart from another one; see `nab.digest.describe`.
        """
        return digest(
            {
                "structure": structure(self.network),
                "weights": pack_weights(self.network),
                "classes": len(self.classes),
                "normalization": self.normalization,
                "precision": self.runtime.precision,
            }
        )

    def copy(self) -> Predictor:
        """The same with a copy of the network, so that its weights can be changed."""
        return dataclasses.replace(self, network=copy.deepcopy(self.network))

    def frozen(self) -> Predictor:
        """The predictor itself; its network is put into evaluation mode, and its weights get no gradients any more."""
        self.network.eval().requires_grad_(False)
        return self

    def trainable(self) -> Predictor:
        """The predictor itself; its weights, but for the ``fixed`` ones, get gradients."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in self.fixed)
        return self

    def to(self, device: torch.device) -> Predictor:
        """The same on another device; the network itself is moved, as torch does it."""
        runtime = dataclasses.replace(self.runtime, device=device)
        return dataclasses.replace(self, network=self.network.to(device), runtime=runtime)

    def logits(self, images: Tensor, change: Change | None = None) -> Tensor:
        """float32, N x K, on the device.

        Args:
            images: uint8, N x C x H x W. The network is left in evaluation mode.
            change: of the normalized images.
        """
        return torch.cat(list(self.run(self.network, images, change)))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features, from which the classifier makes the logits; float32, N x D, on the device.

        Args:
            images: uint8, N x C x H x W. The network is left in evaluation mode.
        """
        return torch.cat(list(self.run(self.network.features, images)))

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """The maps of the last block; float32, B x D x h x w, on the device, batch by batch because they are large.

        Args:
            images: uint8, N x C x H x W. The network is left in evaluation mode.
        """
        return self.run(self.network.maps, images)

    def predict(self, images: Tensor, change: Change | None = None) -> Tensor:
        """The most likely class; int64, N, on the CPU. Arguments as for `logits`."""
        return self.logits(images, change).argmax(1).cpu()

    @torch.no_grad()
    def run(self, part: Callable[[Tensor], Tensor], images: Tensor, change: Change | None = None) -> Iterator[Tensor]:
        """What a part of the network makes of images, batch by batch; float32, on the device.

        Args:
            part: maps inputs of the network to a tensor.
            images: uint8, N x C x H x W. The network is left in evaluation mode.
            change: of the normalized images.
        """
        self.network.eval()
        for batch in images.split(fitting(BATCH_SIZE, images)):
            inputs = self.normalize(batch)
            yield self.apply(part, inputs if change is None else change(inputs))

    def normalize(self, images: Tensor) -> Tensor:
        """Images (uint8 or float, 0 to 255, on any device) as the network's inputs: float32, on the device."""
        return self.normalization.apply(images.to(self.runtime.device, non_blocking=True))

    def apply(self, part: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What a part of the network makes of inputs, in the precision and layout of the runtime; float32,
        differentiable. The network stays in the mode that it is in.

        Args:
            part: maps inputs of the network to a tensor.
            inputs: normalized images, float32, B x C x H x W, on the device.
        """
        with self.runtime.autocast():
            return part(self.runtime.lay_out(inputs)).float()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of normalized images; see `apply`."""
        return self.apply(self.network, inputs)


def without_gradient(network: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that get none."""
    return tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad)


def freeze(network: nn.Module) -> nn.Module:
    """The network itself, put into evaluation mode; its weights get no gradients any more."""
    return network.eval().requires_grad_(False)
