"""How a network is trained: every number of it in one place."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from nab.checks import check_choice, check_count, check_positive, check_range
from nab.digest import later
from nab.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel, of images in [0, 1]. The authors of NAB use them on CIFAR-10 too; the stamp's value 0 is this mean."""

SCHEDULES = ("cosine", "constant", "steps", "one-cycle")
SCHEDULE_FIELDS = {
    "cosine": ("cosine_extra_epochs",),
    "steps": ("milestones", "step_factor"),
    "one-cycle": ("warmup",),
}
"""Fields that one schedule alone looks at."""

OPTIMIZERS = ("sgd", "muon")
PRECISIONS = ("auto", "bfloat16", "float32")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The paper's training recipe by default (the authors' implementation of NAB).

    Attributes:
        epochs: passes over the training set.
        batch_size: samples per step; the last, smaller batch is kept.
        optimizer: ``"sgd"``; ``"muon"`` (see `nab.training.muon`) for convolutions, and SGD for the rest.
        lr: the highest learning rate of SGD.
        filter_lr: the highest rate of convolutions' filters, for ``"muon"`` alone; it rises and falls as ``lr`` does.
        momentum: of either.
        nesterov: whether the momentum of SGD looks ahead.
        weight_decay: on all parameters that SGD updates.
        label_smoothing: share of the target spread over all classes.
        schedule: ``"cosine"`` sets ``lr (1 + cos(pi e / (epochs + cosine_extra_epochs))) / 2`` at the start of epoch e;
            ``"constant"``; ``"steps"`` multiplies by ``step_factor`` at every one of ``milestones``; ``"one-cycle"``
            rises linearly over the first ``warmup`` share of all steps and then falls linearly to zero, step by step.
        cosine_extra_epochs: by how much the cosine is longer than the training.
        milestones: epochs, for ``"steps"``.
        step_factor: for ``"steps"``.
        warmup: share of all steps, for ``"one-cycle"``.
        crop_padding: black pixels around the image before a random crop of its own size.
        flip: whether half of the images are mirrored.
        cutout: side of the square set to the mean colour; its half, rounded down, is taken to either side of a random
            centre, so that the authors' 3 cuts 2 x 2 pixels. 0 for none.
        mean: per channel, of images in [0, 1].
        std: likewise.
        precision: of the network's arithmetic and Muon's products; ``"auto"`` is bfloat16 where the device has it in
            hardware.

    Raises:
        ConfigError: a value is out of its range.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    schedule: str = "cosine"
    cosine_extra_epochs: int = 5
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    warmup: float = 0.2
    crop_padding: int = 4
    flip: bool = True
    cutout: int = 3
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    precision: str = "auto"
    optimizer: str = later("sgd")
    filter_lr: float = later(0.02)

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        check_positive("batch_size", self.batch_size)
        if self.batch_size < 2:
            raise ConfigError("expected batch_size of at least 2 (batch normalisation needs two samples), got 1")
        check_range("lr", self.lr, 0, math.inf, include_low=False, include_high=False)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_range("filter_lr", self.filter_lr, 0, math.inf, include_low=False, include_high=False)
        check_range("momentum", self.momentum, 0, 1, include_high=False)
        check_range("weight_decay", self.weight_decay, 0, math.inf, include_high=False)
        if self.nesterov and not self.momentum:
            raise ConfigError("expected momentum above 0 with nesterov, got 0")
        check_range("step_factor", self.step_factor, 0, math.inf, include_low=False, include_high=False)
        check_range("label_smoothing", self.label_smoothing, 0, 1, include_high=False)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_range("warmup", self.warmup, 0, 1)
        for name in ("cosine_extra_epochs", "crop_padding", "cutout"):
            check_count(name, getattr(self, name))
        check_choice("precision", self.precision, PRECISIONS)
        if self.cutout == 1:
            raise ConfigError("expected cutout of 0 for none, or at least 2, got 1, whose half is no pixel")
        if min(self.std) <= 0:
            raise ConfigError(f"expected std above 0 in every channel, got {self.std}")

    def effective(self) -> Recipe:
        """The same recipe, with what its schedule or optimizer does not look at as by default: equal if training is."""
        unused = {name for schedule, names in SCHEDULE_FIELDS.items() if schedule != self.schedule for name in names}
        if self.optimizer == "sgd":
            unused.add("filter_lr")
        defaults: dict[str, Any] = {
            field.name: field.default for field in dataclasses.fields(self) if field.name in unused
        }
        return dataclasses.replace(self, **defaults)

    def without_augmentation(self) -> Recipe:
        """The same recipe on the images as they are."""
        return dataclasses.replace(self, crop_padding=0, flip=False, cutout=0)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of update ``step``, counted from 0 over the whole training."""
        epoch = step // steps_per_epoch
        if self.schedule == "cosine":
            period = self.epochs + self.cosine_extra_epochs
            return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / period))
        if self.schedule == "steps":
            return self.lr * self.step_factor ** sum(epoch >= m for m in self.milestones)
        if self.schedule == "one-cycle":
            done = (step + 1) / (self.epochs * steps_per_epoch + 1)
            return self.lr * (done / self.warmup if done < self.warmup else (1 - done) / (1 - self.warmup))
        return self.lr

    def normalise(self, images: Tensor) -> Tensor:
        """``(images / 255 - mean) / std`` as float32; grey images use the average over the channels.

        Args:
            images: uint8, N x C x H x W.
        """
        scale, shift = self.affine(images.shape[1], images.device)
        return images.float().mul(scale).sub_(shift)

    def affine(self, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What `normalise` multiplies by and then subtracts: float32, 1 x C x 1 x 1 each."""
        mean, std = _statistics(self.mean, self.std, channels, device)
        return 1 / (255 * std), mean / std

    def denormalise(self, images: Tensor) -> Tensor:
        """The reverse, clamped and rounded: float, N x C x H x W to uint8."""
        mean, std = _statistics(self.mean, self.std, images.shape[1], images.device)
        return (images * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)  # made once per device: a copy to a GPU in every batch would make it wait
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    """Mean and standard deviation, 2 x 1 x C x 1 x 1."""
    both = torch.tensor((mean, std), device=device).view(2, 1, 3, 1, 1)
    return both if channels == 3 else both.mean(2, keepdim=True)


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "quick": Recipe(
        epochs=18,
        batch_size=128,
        optimizer="muon",
        lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        label_smoothing=0.1,
        schedule="one-cycle",
        crop_padding=2,
    ),
}
"""The paper's 100 epochs, and 18 with what lets a network learn so fast: orthogonal updates of
filters, one cycle of the learning rate, smoothed labels and smaller crops. `benchmarks/recipe.py` compares them."""
