"""LGA, local gradient ascent (Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning", NeurIPS 2021): the paper's
detector.

A network learns a backdoor faster than the task. While the mean loss of a batch is below ``gamma`` the update is turned
round, which keeps clean samples near ``gamma``; poisoned samples fall through. The samples of least loss are suspects.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.detection.base import Detector
from nab.training import Context, Hook, Recipe


class GradientAscentHook(Hook):
    """Turns the gradient round for batches whose mean loss is below ``gamma``, and keeps every sample's loss.

    ``|L - gamma| + gamma`` has the gradient ``sign(L - gamma) dL``, the same as ABL's other form ``sign(L - gamma) L``.
    """

    is_static: ClassVar[bool] = True

    def __init__(self, gamma: float, count: int, device: torch.device) -> None:
        self._gamma = gamma
        self._current = torch.full((count,), float("nan"), device=device)  # one tensor for all epochs: see `is_static`
        self._finished: list[Tensor] = []

    def begin_epoch(self, epoch: int) -> None:
        if epoch > 0:
            self._finished.append(self._current.clone())
        self._current.fill_(float("nan"))

    def loss(self, losses: Tensor, logits: Tensor, index: Tensor) -> Tensor:
        self._current[index] = losses.detach()
        return (losses.mean() - self._gamma).abs() + self._gamma

    def history(self) -> Tensor:
        """float32, epochs x N, on the CPU: the loss with which each sample was met; NaN where an epoch left it out."""
        return torch.stack([*self._finished, self._current]).cpu()


@dataclasses.dataclass(frozen=True)
class LGA(Detector):
    """The score is minus the cross-entropy of a sample after training with local gradient ascent.

    Attributes:
        epochs: passes before scoring. The most sensitive number of all: too few and the trigger is not learned yet
            (faint triggers then even have the higher loss), too many and clean samples fall too.
        batch_size: the update is turned round per batch, so the batch must be small for the mean to tell.
        lr: of SGD; high, and nearly constant.
        gamma: the loss at which the update turns round, in nats.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: the learning rate follows a cosine that is this much longer than the training (80: it stays
            above 91 % of ``lr`` over 20 epochs).

    Defaults are those of the authors of NAB (20 epochs, no augmentation). One difference: theirs updates the learning
    rate after an epoch, so it is one epoch behind on the cosine; the last one has 92.2 % of ``lr`` there and 91.4 %
    here.
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
        """How the detector's network is trained; normalisation and precision as in ``base``."""
        return dataclasses.replace(
            base.without_augmentation(),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="sgd",
            lr=self.lr,
            momentum=self.momentum,
            nesterov=False,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            schedule="cosine",
            cosine_extra_epochs=self.cosine_extra_epochs,
        )

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        hook = GradientAscentHook(self.gamma, len(dataset), context.device)
        trained = context.train(dataset, "detection (lga)", recipe=self.recipe(context.recipe), hook=hook)
        context.notes["lga_losses"] = hook.history()
        logits = trained.predictor.logits(dataset.images)
        return -F.cross_entropy(logits, dataset.labels.to(logits.device), reduction="none").cpu()
