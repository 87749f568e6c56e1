"""LGA, local gradient ascent (Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning", NeurIPS 2021): the paper's
detector.

A network learns a backdoor faster than the task. If the mean loss of a batch is below ``gamma``, the gradient is
reversed, which keeps the loss of clean samples near ``gamma``. The loss of poisoned samples falls further. The samples
of least loss are suspects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.needs import Given
from nab.training import Batch, CrossEntropy, Predictor, Recipe, Trainer


class GradientAscent(CrossEntropy):
    """Reverses the gradient of batches whose mean loss is below ``gamma``, and keeps every sample's loss.

    ``|L - gamma| + gamma`` has the gradient ``sign(L - gamma) dL``, the same as ABL's other form ``sign(L - gamma) L``.

    Args:
        gamma: the loss below which the gradient is reversed, in nats.
        count: samples of the training set.
        device: where the training runs.
    """

    is_static: ClassVar[bool] = True

    def __init__(self, gamma: float, count: int, device: torch.device) -> None:
        super().__init__()
        self._gamma = gamma
        self._current = torch.full((count,), float("nan"), device=device)  # a CUDA graph writes to this one tensor
        self._finished: list[Tensor] = []

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """None: the losses that the step collects are not kept with the network."""
        return None

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:
        if epoch > 0:
            self._finished.append(self._current.clone())
        self._current.fill_(float("nan"))

    def reduce(self, losses: Tensor, batch: Batch) -> Tensor:
        self._current[batch.positions] = losses.detach()
        return (losses.mean() - self._gamma).abs() + self._gamma

    def history(self) -> Tensor:
        """float32, epochs x N, on the CPU: every sample's loss in its batch; NaN if an epoch left the sample out."""
        return torch.stack([*self._finished, self._current]).cpu()


@dataclasses.dataclass(frozen=True)
class LGA(Detector):
    """The score is minus the cross-entropy of a sample after training with local gradient ascent.

    Attributes:
        epochs: passes before scoring. The scores depend on this number most. After too few the trigger is not learned
            yet, and the loss of faint triggers is even the higher one; after too many the loss of clean samples is low
            too.
        batch_size: samples per step. The gradient is reversed for a whole batch, so batches must be small.
        lr: of SGD; high, and nearly constant.
        gamma: the loss below which the gradient is reversed, in nats.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: the learning rate follows a cosine that is this much longer than the training (80: it stays
            above 91 % of ``lr`` over 20 epochs).

    Defaults are those of the authors of NAB (20 epochs, no augmentation), with one difference. Their code updates the
    learning rate after an epoch, and so is one epoch behind on the cosine. The last epoch has 92.2 % of ``lr`` there
    and 91.4 % here.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.1
    gamma: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 1e-4
    cosine_extra_epochs: int = 80

    summary: ClassVar[str] = "local gradient ascent: backdoors are learned first, their samples have the least loss"
    source: ClassVar[str] = "Li et al. 2021 (ABL)"

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, 0, float("inf"), include_low=False)
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's network is trained; precision as in ``base``."""
        return base.without_augmentation().plain_sgd(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="cosine",
            cosine_extra_epochs=self.cosine_extra_epochs,
        )

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        step = GradientAscent(self.gamma, len(dataset), trainer.device)
        trained = trainer.train(dataset, "detection (lga)", recipe=self.recipe(trainer.recipe), step=step)
        logits = trained.predictor.logits(dataset.images)
        scores = -F.cross_entropy(logits, dataset.labels.to(logits.device), reduction="none").cpu()
        return Scored(scores, {"lga_losses": step.history()})
