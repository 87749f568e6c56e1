"""`Recipe`: every number that says how a network is trained."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from nab.checks import check_choice, check_count, check_positive, check_range, check_whole
from nab.errors import ConfigError

LARGEST_IMAGE = 1024
"""The most pixels of a crop's padding or of a hole's side."""

SCHEDULES = ("cosine", "constant", "steps", "one-cycle")
SCHEDULE_FIELDS = {
    "cosine": ("cosine_extra_epochs",),
    "steps": ("milestones", "step_factor"),
    "one-cycle": ("warmup",),
}
"""By schedule, the fields that no other schedule looks at."""

OPTIMIZERS = ("sgd", "muon")
PRECISIONS = ("auto", "bfloat16", "float32")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's, as in the authors' implementation of NAB.

    Attributes:
        epochs: passes over the training set.
        batch_size: samples per step, at least 2; a smaller last batch is kept.
        optimizer: ``"sgd"`` for all parameters, or ``"muon"`` for the filters of convolutions and SGD for the rest; see
            `nab.training.muon`.
        lr: the highest learning rate of SGD.
        filter_lr: the highest learning rate of ``"muon"``; it rises and falls as ``lr`` does.
        momentum: of both optimizers.
        nesterov: whether the momentum of SGD looks ahead.
        weight_decay: on all parameters that SGD updates.
        label_smoothing: share of the target spread over all classes.
        schedule: ``"cosine"`` sets ``lr (1 + cos(pi e / (epochs + cosine_extra_epochs))) / 2`` at the start of epoch e,
            counted from 0; ``"constant"`` is ``lr``; ``"steps"`` multiplies by ``step_factor`` at each milestone;
            ``"one-cycle"`` rises linearly during the first ``warmup`` share of all steps and then falls linearly to
            zero, step by step.
        cosine_extra_epochs: by how many epochs the cosine is longer than the training.
        milestones: of ``"steps"``; epochs, counted from 0.
        step_factor: of ``"steps"``.
        warmup: of ``"one-cycle"``; share of all steps.
        crop_padding: black pixels around the image before a random crop of its own size.
        flip: whether half of the images are mirrored.
        cutout: side of a square that is set to the mean color; 0 for none. The square reaches half of it, rounded down,
            to either side of a random center, so that the authors' 3 cuts 2 x 2 pixels.
        precision: of the network's arithmetic and Muon's products: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which
            is bfloat16 on devices that have it in hardware.

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
    precision: str = "auto"
    optimizer: str = "sgd"
    filter_lr: float = 0.02

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        check_positive("batch_size", self.batch_size)
        if self.batch_size < 2:
            raise ConfigError("expected batch_size of at least 2 (batch normalization needs two samples), got 1")
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
        check_count("cosine_extra_epochs", self.cosine_extra_epochs)
        for name in ("crop_padding", "cutout"):
            check_whole(name, getattr(self, name), 0, LARGEST_IMAGE)
        check_choice("precision", self.precision, PRECISIONS)
        if self.cutout == 1:
            raise ConfigError("expected cutout of 0 for none, or at least 2, got 1, whose half is no pixel")

    def effective(self) -> Recipe:
        """The same recipe, but fields that its schedule or optimizer does not look at have their defaults.

        Two recipes train in the same way if their effective recipes are equal.
        """
        unused = {name for schedule, names in SCHEDULE_FIELDS.items() if schedule != self.schedule for name in names}
        if self.optimizer == "sgd":
            unused.add("filter_lr")
        defaults: dict[str, Any] = {
            field.name: field.default for field in dataclasses.fields(self) if field.name in unused
        }
        return dataclasses.replace(self, **defaults)

    def plain_sgd(self, **numbers: Any) -> Recipe:
        """The same augmentation and precision, trained by SGD without Nesterov and with hard labels.

        Args:
            numbers: fields of the recipe; at least those that say how long and how fast to train.
        """
        plain: dict[str, Any] = {"optimizer": "sgd", "nesterov": False, "label_smoothing": 0.0}
        return dataclasses.replace(self, **(plain | numbers))

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
"""``paper`` trains for 100 epochs. ``quick`` trains for 18, with orthogonal updates of filters, one cycle of the
learning rate, smoothed labels and smaller crops. `benchmarks/recipe.py` compares the two."""
