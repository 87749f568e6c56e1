"""What all labelers share."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.data import Dataset
from nab.errors import ConfigError
from nab.needs import Given, Suspicion, left_alone
from nab.training import Output, Recipe, Trainer


@dataclasses.dataclass(frozen=True)
class Labeler(abc.ABC):
    """Guesses true labels.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `label` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Some of `nab.needs.NEEDS`. Suspects come without pseudo labels."""

    def recipe(self, base: Recipe) -> Recipe:
        """How the labeler's own network is trained, given the final network's recipe; ``base`` itself by default."""
        return base

    def check(  # noqa: B027 - most suit everything
        self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None
    ) -> None:
        """Whether the labeler suits the data and the network, before anything is trained; see `nab.detection.Detector`.

        Raises:
            NabError: it does not.
        """

    @abc.abstractmethod
    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
        """A label for every sample, of which only the suspects' are used.

        Args:
            dataset: the training set as the defender sees it.
            trainer: how and where to train, and the seed.
            given: what the labeler declared that it needs.

        Returns:
            int64, N, on the CPU.
        """


def trusted(dataset: Dataset, suspicion: Suspicion, rate: float) -> Tensor:
    """The samples whose labels are believed: all but the suspects and the share with the highest scores.

    Suspects are few, so the other samples still hold much poison. Leaving out more of them costs little, because enough
    clean samples remain. A class that would lose all of its samples keeps those that are no suspects.

    Args:
        dataset: the training set.
        suspicion: the suspects and their scores.
        rate: share of all samples, those with the highest scores, that is left out; in [0, 1).

    Returns:
        bool, N.
    """
    is_innocent, scores = ~suspicion.is_suspect, suspicion.scores
    most = scores.argsort(descending=True, stable=True)[: int(rate * len(scores))]
    is_left = is_innocent.clone()
    is_left[most[scores[most] > -math.inf]] = False
    counts = dataset.labels[is_left].bincount(minlength=dataset.num_classes)
    return is_left | (is_innocent & (counts == 0)[dataset.labels])


def guess_labels(labeler: Labeler, dataset: Dataset, trainer: Trainer, given: Given) -> Tensor:
    """The labeler's labels, kept as a stage. Arguments and result as for `Labeler.label`."""
    given = given.only(labeler.needs)
    if given.truth is not None:  # an oracle takes no time, and the truth is no part of any key
        return _checked(labeler, labeler.label(dataset, trainer, given), dataset)
    inputs = {
        "labeler": labeler,
        "dataset": dataset,
        "given": given.inputs,
        "recipe": labeler.recipe(trainer.recipe).effective(),
        "architecture": trainer.architecture,
        "seed": trainer.seed,
    }

    def make() -> Output:
        with left_alone(type(labeler).__name__, dataset):
            labels = labeler.label(dataset, trainer, given)
        return Output({"labels": _checked(labeler, labels, dataset)})

    return trainer.keep("pseudo labels", inputs, make).tensors["labels"]


def _checked(labeler: Labeler, labels: Tensor, dataset: Dataset) -> Tensor:
    """The labels, on the CPU, if there is one of the classes for every sample.

    Raises:
        ConfigError: there is not.
    """
    who = type(labeler).__name__
    if labels.shape != (len(dataset),) or labels.dtype != torch.int64:
        raise ConfigError(
            f"expected {who} to give int64 labels for {len(dataset)} samples, got {labels.dtype} {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= dataset.num_classes:
        raise ConfigError(
            f"expected {who} to give labels from 0 to {dataset.num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    return labels.cpu()
