"""Fine-tuning: the attacked network goes on learning, from verified images alone.

Public implementations disagree about where these images come from. BackdoorBench draws 5 % of the clean training set
at random; the backdoor toolbox takes 2,000 test images. Here the verified set is handed over; a run draws it from the
clean training set, class by class. Settings are BackdoorBench's.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import Defended, Defense
from nab.defenses.deployed import Plain
from nab.needs import Given
from nab.training import Recipe, Trainer


@dataclasses.dataclass(frozen=True)
class FineTune(Defense):
    """Trains the attacked network on with the verified images.

    Attributes:
        epochs: passes over the verified images.
        batch_size: images per step.
        lr: of SGD, at the start; it follows a cosine to zero.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.

    Defaults are BackdoorBench's, for 5 % of the training set. Augmentation is that of the trainer's recipe.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    summary: ClassVar[str] = "go on training the attacked network, on verified images alone"
    source: ClassVar[str] = "baseline"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model", "verified"})

    def __post_init__(self) -> None:
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the network is trained on; augmentation and precision as in ``base``."""
        return base.plain_sgd(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="cosine",
            cosine_extra_epochs=0,
        )

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.attacked is not None
        assert given.verified is not None
        tuned = trainer.train(
            given.verified,
            "fine-tuning",
            recipe=self.recipe(trainer.recipe),
            start=given.attacked.predictor,
            watch=Plain,
        )
        return Defended(Plain(tuned.predictor), {"training": given.attacked, "fine-tuning": tuned})
