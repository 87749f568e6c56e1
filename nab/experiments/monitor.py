"""What is measured of a network after every epoch, and the answers to examples at the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from nab.attacks import Triggered
from nab.data import Dataset
from nab.defenses import Deployed
from nab.evaluation import answer_metrics

EXAMPLES = 8
"""Test images whose answers are kept one by one."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttackMonitor:
    """Accuracy and attack success on a fixed part of the test set, as deployed and of its variants.

    Attributes:
        test: the whole test set.
        triggered: the same images with the trigger.
        size: how many images are used; they are evenly spaced.
        is_attacked: whether anybody attacked.
    """

    test: Dataset
    triggered: Triggered
    size: int
    is_attacked: bool = True

    @property
    def inputs(self) -> dict[str, Any]:
        """Everything that the measurements depend on besides what is deployed; see `nab.digest.describe`."""
        triggered = self.triggered if self.is_attacked else None
        return {"test": self.test, "triggered": triggered, "size": self.size}

    def __call__(self, deployed: Deployed) -> dict[str, float]:
        """See `nab.evaluation.answer_metrics`."""
        index = torch.linspace(0, len(self.test) - 1, min(self.size, len(self.test))).long()
        part = self.triggered.subset(index)
        clean = deployed.answer(self.test.images[index])
        attacked = deployed.answer(part.images) if self.is_attacked else None
        return answer_metrics(deployed, clean, attacked, part)


def answer_examples(
    deployed: Deployed, test: Dataset, triggered: Triggered, *, is_attacked: bool = True
) -> list[dict[str, int]]:
    """The answers to the first test image of each class but the target's, for up to `EXAMPLES` classes.

    Returns:
        one row per image: ``index`` in the test set, ``true_label``, ``clean`` and ``triggered`` (labels, or
        `nab.defenses.REFUSED`), and the labels of every variant, with its name as suffix.
    """
    eligible = triggered.is_eligible if is_attacked else torch.ones(len(test), dtype=torch.bool)
    firsts = {int(test.labels[i]): int(i) for i in reversed(eligible.nonzero().squeeze(1).tolist())}
    index = torch.tensor(sorted(firsts.values())[:EXAMPLES], dtype=torch.long)
    views = {"clean": test.images[index]} | ({"triggered": triggered.images[index]} if is_attacked else {})
    answers: dict[str, Tensor] = {}
    for view, images in views.items():
        said = deployed.answer(images)
        answers[view] = said.accepted if deployed.refuses else said.labels
        answers |= {f"{view}_{name}": labels for name, labels in said.variants.items()}
    return [
        {"index": int(i), "true_label": int(test.labels[i])}
        | {name: int(labels[k]) for name, labels in answers.items()}
        for k, i in enumerate(index)
    ]
