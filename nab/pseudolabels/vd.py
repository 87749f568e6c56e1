"""VD, a network trained on a small verified set (NAB; settings from the authors' implementation)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.needs import Given
from nab.pseudolabels.base import Labeler
from nab.stamp import Stamp
from nab.training import Recipe, Trainer


@dataclasses.dataclass(frozen=True)
class VD(Labeler):
    """A network that is trained on the verified images alone labels every training image.

    Attributes:
        epochs: passes over the verified images.
        batch_size: samples per step.
        lr: the highest learning rate of SGD.
        schedule: see `Recipe`; the authors divide ``lr`` by ten at each of ``milestones``.
        milestones: epochs, counted from 0.
        stamp: written on the images that are labeled, although no verified image carries it; None for no stamp. The
            authors write NAB's own. A stamp also hides a trigger that lies under it.

    Defaults are the authors'. The images are augmented as those of the final network, as the authors do.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.01
    schedule: str = "steps"
    milestones: tuple[int, ...] = (20, 60)
    stamp: Stamp | None = Stamp()

    summary: ClassVar[str] = "a network trained on a small verified set"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023 (NAB)"
    needs: ClassVar[frozenset[str]] = frozenset({"verified"})

    def __post_init__(self) -> None:
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the labeler's network is trained; augmentation and precision are those of ``base``."""
        return base.plain_sgd(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=0.9,
            weight_decay=1e-4,
            schedule=self.schedule,
            milestones=tuple(self.milestones),
            step_factor=0.1,
        )

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        trained = trainer.train(given.require_verified(), "pseudo labels (vd)", recipe=self.recipe(trainer.recipe))
        change = None if self.stamp is None else self.stamp.on(dataset.normalization)
        return trained.predictor.predict(dataset.images, change)
