"""An attacked model that can be read: its feature maps are the image; and a set in which the poison is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nab.data import Dataset

CHANNELS = 12
SIZE = 60
"""Samples per class."""


class PixelModel:
    """Maps of 12 channels of 4 x 4 are the 3 x 8 x 8 pixels in their order; the class is the brightest of the first."""

    def __init__(self, num_classes: int, change: Callable[[Tensor], Tensor] = lambda maps: maps) -> None:
        self.num_classes = num_classes
        self.change = change

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        for batch in images.split(50):
            yield self.change(batch.reshape(len(batch), CHANNELS, 4, 4).float())

    def features(self, images: Tensor) -> Tensor:
        return torch.cat(list(self.maps(images))).mean((2, 3))

    def predict(self, images: Tensor) -> Tensor:
        return self.features(images)[:, : self.num_classes].argmax(1)


def attack(monkeypatch: pytest.MonkeyPatch, model: PixelModel) -> None:
    """Every context's attacked model is ``model``."""
    monkeypatch.setattr("nab.training.Context.train_plainly", lambda *_: SimpleNamespace(predictor=model))


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is trained fails the test."""

    def fail(*_: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr("nab.training.Context.train_plainly", fail)


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
