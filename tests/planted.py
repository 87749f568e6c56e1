"""An attacked model that can be read: its feature maps are the image; and a set in which the poison is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nab.data import Dataset
from nab.data.normalization import IDENTITY, Normalization
from nab.needs import Given
from nab.training import Predictor, Runtime, Trained

CHANNELS = 12
SIZE = 60
"""Samples per class."""


class PixelModel(nn.Module):
    """The 3 x 8 x 8 pixels in their order are maps of 12 channels of 4 x 4, which the last block averages to 2 x 2. The
    class is the brightest of the first channels.

    Args:
        num_classes: how many of the first channels there are.
        change: of the maps of 4 x 4.
    """

    def __init__(self, num_classes: int, change: Callable[[Tensor], Tensor] = lambda maps: maps) -> None:
        super().__init__()
        self.change = change
        self.blocks = nn.ModuleDict({"unfold": nn.Unflatten(1, (CHANNELS, 4, 4)), "average": nn.AvgPool2d(2)})
        self.classifier = nn.Linear(CHANNELS, num_classes, bias=False)
        nn.init.eye_(self.classifier.weight)

    def maps(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks["average"](self.change(self.blocks["unfold"](images.flatten(1))))
        return maps

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


UNIT = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Normalized images are then images in [0, 1]."""


def given_around(network: Any, normalization: Normalization = IDENTITY, **rest: Any) -> Given:
    """What a method is handed: ``network`` as the attacked model, which sees pixels as they are unless told otherwise,
    and ``rest``."""
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    return Given(attacked=Trained(Predictor(network, normalization, runtime), [], 1.0), **rest)


def planted(poisoned: int = 12, *, classes: int = 4, size: int = SIZE, seed: int = 0) -> tuple[Dataset, Tensor]:
    """Classes of ``size`` samples whose own channel is bright; the first ``poisoned`` of class 0 have the last one too.

    Returns:
        the set, in the order of its classes, and bool, N: the poisoned ones.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(size)
    levels = 50 + 6 * torch.randn(len(labels), CHANNELS, generator=generator)
    levels[torch.arange(len(labels)), labels] += 100
    is_poisoned = torch.arange(len(labels)) < poisoned
    levels[is_poisoned, -1] += 80
    pixels = levels[:, :, None, None] + 10 * torch.randn(len(labels), CHANNELS, 4, 4, generator=generator)
    images = pixels.clamp(0, 255).to(torch.uint8).reshape(-1, 3, 8, 8)
    return Dataset(images, labels, tuple("abcdefghij"[:classes]), "planted"), is_poisoned
