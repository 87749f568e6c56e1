"""VD, a network trained on a small verified set (NAB; settings from the authors' implementation)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.pseudolabels.base import Labeler
from nab.stamp import Stamp
from nab.training import Context, Recipe


@dataclasses.dataclass(frozen=True)
class VD(Labeler):
    """Trains on the verified data alone and predicts every training image.

    Attributes:
        epochs: passes over the verified set.
        batch_size: samples per step.
        lr: of SGD.
        schedule: see `Recipe`; the authors divide ``lr`` by ten at every one of ``milestones``.
        milestones: epochs.
        stamp_when_labelling: whether the images that are labelled carry the stamp, although training did not. The
            authors do so; the stamp also hides a trigger that lies under it.

    Defaults are the authors'. Their augmentation is the final network's, taken from the context's recipe.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.01
    schedule: str = "steps"
    milestones: tuple[int, ...] = (20, 60)
    stamp_when_labelling: bool = True

    summary: ClassVar[str] = "a network trained on a small verified set"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023 (NAB)"
    needs_verified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the labeller's network is trained; augmentation, normalisation and precision as in ``base``."""
        return dataclasses.replace(
            base,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="sgd",
            lr=self.lr,
            nesterov=False,
            momentum=0.9,
            weight_decay=1e-4,
            label_smoothing=0.0,
            schedule=self.schedule,
            milestones=tuple(self.milestones),
            step_factor=0.1,
        )

    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        verified = context.require_verified("labeler 'vd'", dataset)
        trained = context.train(verified, "pseudo labels (vd)", recipe=self.recipe(context.recipe))
        predictor = trained.predictor.with_stamp(stamp if self.stamp_when_labelling else None)
        return predictor.predict(dataset.images)
