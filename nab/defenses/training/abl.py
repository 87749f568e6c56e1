"""ABL, anti-backdoor learning (Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned
Data", NeurIPS 2021; arXiv:2110.11571).

One network goes through three stages. Isolation trains it with local gradient ascent, after which poisoned samples
have the least loss, and isolates a small share of the samples. Fine-tuning trains it on with the others, as usual.
Unlearning maximizes its loss on the isolated samples, which breaks the link between trigger and label.

Numbers and order follow the authors' code. Public implementations disagree. BackdoorBench isolates for 20 epochs at a
learning rate of 0.01, fine-tunes at 0.01, and unlearns for 20 epochs at 1e-4 on augmented images. The backdoor toolbox
isolates 0.1 % of the samples after 15 epochs with ``gamma`` 0.3, skips fine-tuning, and unlearns for 10 epochs at 0.02.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.defenses.base import Defended, Defense
from nab.defenses.deployed import Plain
from nab.detection import select_suspects, suspect_count
from nab.detection.lga import GradientAscent
from nab.errors import ConfigError
from nab.needs import Given, Suspicion
from nab.training import Batch, CrossEntropy, Predictor, Recipe, Trainer


class Isolation(GradientAscent):
    """Local gradient ascent whose network can be kept, since nobody asks for the losses that it met."""

    is_static: ClassVar[bool] = True

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        return {"gamma": self._gamma}


class Unlearning(CrossEntropy):
    """Maximizes the cross-entropy."""

    is_static: ClassVar[bool] = True

    def reduce(self, losses: Tensor, batch: Batch) -> Tensor:
        return -losses.mean()


@dataclasses.dataclass(frozen=True)
class ABL(Defense):
    """Isolates the samples that are learned first, trains on with the others, and unlearns the isolated ones.

    All stages use SGD with Nesterov momentum. Fine-tuning augments as the trainer's recipe does; the other stages see
    the images as they are. Batch normalization is in training mode in all stages, as in the authors' code.

    Attributes:
        isolation_rate: share of the training set that is isolated and unlearned, in (0, 1).
        gamma: the loss at which local gradient ascent turns round, in nats.
        isolation_epochs: passes before isolation.
        isolation_lr: learning rate of these, constant.
        fine_tuning_epochs: passes over the samples that are not isolated.
        fine_tuning_lr: learning rate of these, at the start.
        milestones: epochs of fine-tuning at which its learning rate falls to a tenth.
        unlearning_epochs: passes over the isolated samples. The authors' code counts 5, of which the first only tests.
        unlearning_lr: learning rate of these, constant.
        batch_size: samples per step.
        momentum: of SGD.
        weight_decay: on all parameters.

    Defaults are the authors', for a wide residual network on CIFAR-10. Unlearning is the sensitive stage: one percent
    of a small training set is a handful of samples, for which 4 passes at 5e-4 change nothing.
    """

    isolation_rate: float = 0.01
    gamma: float = 0.5
    isolation_epochs: int = 10
    isolation_lr: float = 0.1
    fine_tuning_epochs: int = 60
    fine_tuning_lr: float = 0.1
    milestones: tuple[int, ...] = (40,)
    unlearning_epochs: int = 4
    unlearning_lr: float = 5e-4
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4

    summary: ClassVar[str] = "isolate what is learned first, train on with the rest, then unlearn what was isolated"
    source: ClassVar[str] = "Li et al. 2021"

    def __post_init__(self) -> None:
        check_range("isolation_rate", self.isolation_rate, 0, 1, include_low=False, include_high=False)
        check_range("gamma", self.gamma, 0, math.inf, include_low=False, include_high=False)
        for recipe in (self.isolation_recipe, self.fine_tuning_recipe, self.unlearning_recipe):
            recipe(Recipe())  # its checks

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        count = suspect_count(len(dataset), self.isolation_rate)
        if not 2 <= count <= len(dataset) - 2:
            raise ConfigError(
                f"expected an isolation_rate that isolates and leaves at least two of {len(dataset)} samples, "
                f"got {self.isolation_rate}, which isolates {count}"
            )

    def isolation_recipe(self, base: Recipe) -> Recipe:
        """How the first stage trains; precision as in ``base``."""
        return self._recipe(base.without_augmentation(), self.isolation_epochs, self.isolation_lr)

    def fine_tuning_recipe(self, base: Recipe) -> Recipe:
        """How the second stage trains; augmentation and precision as in ``base``."""
        recipe = self._recipe(base, self.fine_tuning_epochs, self.fine_tuning_lr)
        return dataclasses.replace(recipe, schedule="steps", milestones=self.milestones, step_factor=0.1)

    def unlearning_recipe(self, base: Recipe) -> Recipe:
        """How the third stage trains; precision as in ``base``."""
        return self._recipe(base.without_augmentation(), self.unlearning_epochs, self.unlearning_lr)

    def _recipe(self, base: Recipe, epochs: int, lr: float) -> Recipe:
        return base.plain_sgd(
            epochs=epochs,
            batch_size=self.batch_size,
            lr=lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            schedule="constant",
        )

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        isolated = trainer.train(
            dataset,
            "isolation (abl)",
            recipe=self.isolation_recipe(trainer.recipe),
            step=Isolation(self.gamma, len(dataset), trainer.device),
            watch=Plain,
        )
        suspicion = self.isolate(dataset, isolated.predictor)
        tuned = trainer.train(
            dataset.subset(~suspicion.is_suspect),
            "fine-tuning (abl)",
            recipe=self.fine_tuning_recipe(trainer.recipe),
            start=isolated.predictor,
            watch=Plain,
        )
        unlearned = trainer.train(
            dataset.subset(suspicion.is_suspect),
            "unlearning (abl)",
            recipe=self.unlearning_recipe(trainer.recipe),
            step=Unlearning(),
            start=tuned.predictor,
            watch=Plain,
        )
        stages = {"isolation": isolated, "fine-tuning": tuned, "unlearning": unlearned}
        return Defended(Plain(unlearned.predictor), stages, suspicion)

    def isolate(self, dataset: Dataset, predictor: Predictor) -> Suspicion:
        """The samples of least cross-entropy, of which there are ``floor(isolation_rate * N)``; the score is minus the
        cross-entropy, by the network in evaluation mode."""
        logits = predictor.logits(dataset.images)
        scores = -F.cross_entropy(logits, dataset.labels.to(logits.device), reduction="none").cpu()
        return Suspicion(scores, select_suspects(scores, self.isolation_rate))
