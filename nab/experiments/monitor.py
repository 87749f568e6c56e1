"""What is measured of a network after every epoch, and of its predictions at the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from nab.attacks import Triggered
from nab.data import Dataset
from nab.evaluation import attack_metrics
from nab.training import Predictor

EXAMPLES = 8
"""Test images whose predictions are kept one by one."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttackMonitor:
    """Accuracy and attack success on a fixed part of the test set, with the stamp and without.

    Attributes:
        test: the whole test set.
        triggered: the same images with the trigger.
        size: how many images, evenly spaced, are used.
    """

    test: Dataset
    triggered: Triggered
    size: int

    @property
    def inputs(self) -> dict[str, Any]:
        """Everything that its answers depend on besides the network."""
        return {"test": self.test, "triggered": self.triggered, "size": self.size}

    def __call__(self, predictor: Predictor) -> dict[str, float]:
        index = torch.linspace(0, len(self.test) - 1, min(self.size, len(self.test))).long()
        clean, part = self.test.images[index], self.triggered.subset(index)
        row = attack_metrics(predictor.predict(clean), predictor.predict(part.images), part)
        if predictor.stamp is not None:
            bare = predictor.with_stamp(None)
            plain = attack_metrics(bare.predict(clean), bare.predict(part.images), part)
            row |= {f"{name}_unstamped": value for name, value in plain.items()}
        return row


def predict_examples(predictor: Predictor, test: Dataset, triggered: Triggered) -> list[dict[str, int]]:
    """Predictions for the first test image of each class but the target's."""
    eligible = triggered.is_eligible.nonzero().squeeze(1)
    firsts = {int(triggered.true_labels[i]): int(i) for i in reversed(eligible.tolist())}
    index = torch.tensor(sorted(firsts.values())[:EXAMPLES], dtype=torch.long)
    views = {"clean": test.images[index], "triggered": triggered.images[index]}
    answers = {name: predictor.predict(images) for name, images in views.items()}
    if predictor.stamp is not None:
        bare = predictor.with_stamp(None)
        answers |= {f"{name}_unstamped": bare.predict(images) for name, images in views.items()}
    return [
        {"index": int(i), "true_label": int(test.labels[i])}
        | {name: int(labels[k]) for name, labels in answers.items()}
        for k, i in enumerate(index)
    ]
