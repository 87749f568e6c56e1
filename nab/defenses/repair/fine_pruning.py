"""Fine-pruning (Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
RAID 2018; arXiv:1805.12185).

A backdoor lives in channels of the last block that clean images leave dormant. The least active channels are pruned as
long as the accuracy holds. Then the network is trained on with verified images.

Public implementations disagree. BackdoorBench prunes 1 % of the classifier's inputs at a time while the accuracy loses
less than a tenth of itself, but measures this accuracy on the test set, and hands on the first step that loses more.
The backdoor toolbox prunes most inputs at once and then one at a time, on the test set as well, and never trains on.
This file prunes the classifier's inputs in steps of 1 % too, measures accuracy on verified images that ranked no
channel, and hands on the last step that loses little. A pruned channel stays pruned while the network trains on, as in
BackdoorBench.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.defenses.base import TRAINING, Defended
from nab.defenses.deployed import Plain
from nab.defenses.repair.fine_tune import FineTune
from nab.needs import Given
from nab.seeding import stream
from nab.training import Batch, CrossEntropy, Predictor, Trainer


class PrunedTraining(CrossEntropy):
    """Plain training in which pruned inputs of the classifier are zero, so that their weights, which are zero, get no
    gradient and stay zero.

    Args:
        is_pruned: bool, D, on the CPU.
        device: where the training runs.
    """

    is_static: ClassVar[bool] = True

    def __init__(self, is_pruned: Tensor, device: torch.device) -> None:
        super().__init__()
        self._told = is_pruned
        self._is_kept = (~is_pruned).float().to(device)

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        return {"is_pruned": self._told}

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        network = predictor.network

        def pruned(inputs: Tensor) -> Tensor:
            logits: Tensor = network.classifier(network.features(inputs) * self._is_kept)
            return logits

        return F.cross_entropy(predictor.apply(pruned, self.images(batch)), batch.labels)


@dataclasses.dataclass(frozen=True)
class FinePruning(FineTune):
    """Prunes channels of the attacked network that verified images leave dormant, then trains it on with these.

    A channel is an input of the classifier: in residual networks, a channel of the last block's maps, averaged over
    space. It is pruned by setting the classifier's weights for it to zero. Half of the verified images rank the
    channels by their mean activation, the other half measures accuracy, and all of them are trained on.

    Attributes:
        max_drop: the share of its accuracy that the network may lose by pruning, in [0, 1).
        step: share of the channels that are pruned before accuracy is measured again, in (0, 1].

    Defaults are BackdoorBench's, also those of the training, which `FineTune` describes.
    """

    max_drop: float = 0.1
    step: float = 0.01

    summary: ClassVar[str] = "prune channels that verified images leave dormant, then go on training on these"
    source: ClassVar[str] = "Liu, Dolan-Gavitt, Garg 2018"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("max_drop", self.max_drop, 0, 1, include_high=False)
        check_range("step", self.step, 0, 1, include_low=False)

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.attacked is not None
        assert given.verified is not None
        predictor = given.attacked.predictor.copy()
        order = torch.randperm(len(given.verified), generator=stream(trainer.seed, "fine-pruning halves"))
        ranking, measuring = (given.verified.subset(half) for half in order.tensor_split(2))
        is_pruned, rows = self.choose(predictor, ranking.images, measuring)
        prune(predictor.network.classifier, is_pruned)
        tuned = trainer.train(
            given.verified,
            "fine-tuning (fine-pruning)",
            recipe=self.recipe(trainer.recipe),
            step=PrunedTraining(is_pruned, trainer.device),
            start=predictor,
            watch=Plain,
        )
        return Defended(
            Plain(tuned.predictor),
            {TRAINING: given.attacked, "fine-tuning": tuned},
            notes={"is_pruned": is_pruned, "pruned_count": int(is_pruned.sum()), "pruning": rows},
        )

    @torch.no_grad()
    def choose(
        self, predictor: Predictor, ranking: Tensor, measuring: Dataset
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """The channels to prune: as many as cost no more than `max_drop` of the accuracy, one at least being left.

        Args:
            predictor: the attacked network; it is left as it is.
            ranking: uint8, N x C x H x W; their mean activation ranks the channels.
            measuring: on which accuracy is measured.

        Returns:
            bool, D, on the CPU, and one row per step that was tried: how many channels were ``pruned``, and the
            ``accuracy`` then, in percent. The last row is the first one that lost too much, if any did.
        """
        order = predictor.features(ranking).mean(0).argsort(stable=True)
        features, labels = predictor.features(measuring.images), measuring.labels.to(order.device)
        classifier = predictor.network.classifier
        is_pruned = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        rows: list[dict[str, float]] = []
        for count in self._counts(len(order)):
            tried = torch.zeros_like(is_pruned)
            tried[order[:count]] = True
            hits = classifier(features.masked_fill(tried, 0.0)).argmax(1) == labels
            rows.append({"pruned": count, "accuracy": 100 * hits.double().mean().item()})
            if rows[-1]["accuracy"] < (1 - self.max_drop) * rows[0]["accuracy"]:
                break
            is_pruned = tried
        return is_pruned.cpu(), rows

    def _counts(self, channels: int) -> list[int]:
        """How many channels are pruned in each step: none at first, never all."""
        stride = max(1.0, self.step * channels)
        counts = [round(position * stride) for position in range(math.ceil(channels / stride))]
        return [count for count in counts if count < channels]


@torch.no_grad()
def prune(classifier: nn.Linear, is_pruned: Tensor) -> None:
    """Set the weights of pruned inputs to zero, in place.

    Args:
        classifier: K x D weights.
        is_pruned: bool, D, on any device.
    """
    classifier.weight[:, is_pruned.to(classifier.weight.device)] = 0.0
