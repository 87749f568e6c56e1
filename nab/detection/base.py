"""What all detectors share: a score for every training sample."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.detection.cut import check_scores
from nab.needs import Given, left_alone
from nab.training import Output, Recipe, Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """What a detector found.

    Attributes:
        scores: float32, N, on the CPU; higher = more suspicious, minus infinity = never a suspect. The order is what
            counts.
        notes: tensors that were found on the way, by name, for reports; no method reads them. ``"statistics"`` is
            float32, K: how suspicious a detector that judges classes finds each class.
    """

    scores: Tensor
    notes: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Finds training samples that are likely poisoned.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `score` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Some of `nab.needs.NEEDS`."""

    judges_classes: ClassVar[bool] = False
    """Whether it judges classes first and ranks samples within them; such scores show no gap. See `gate_classes`."""

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's own network is trained, from the final network's recipe; ``base`` itself by default."""
        return base

    def check(  # noqa: B027 - most suit everything
        self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None
    ) -> None:
        """Whether the detector can judge the data, before anything is trained.

        Args:
            dataset: the training set as the defender sees it.
            trainer: how networks will be trained; its architecture may not suit the detector.
            verified: the verified images, of a detector that needs them.

        Raises:
            NabError: it cannot.
        """

    @abc.abstractmethod
    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        """How suspicious each sample is.

        Args:
            dataset: the training set as the defender sees it.
            trainer: how and where to train, and the seed.
            given: what the detector declared that it needs.
        """


def find_scores(detector: Detector, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
    """What the detector finds, kept as a stage. Arguments as for `Detector.score`.

    Raises:
        NabError: the detector cannot judge the data, writes into it, or gives a score that is not a number.
    """
    given = given.only(detector.needs)
    detector.check(dataset, trainer, given.verified)
    if given.truth is not None:  # the truth is no part of any key
        with left_alone(type(detector).__name__, dataset):
            found = detector.score(dataset, trainer, given)
        check_scores(found.scores, len(dataset))
        return found

    def make() -> Output:
        with left_alone(type(detector).__name__, dataset):
            found = detector.score(dataset, trainer, given)
        notes = {f"note {name}": value for name, value in found.notes.items()}
        return Output({"scores": check_scores(found.scores, len(dataset))} | notes)

    inputs = {
        "detector": detector,
        "dataset": dataset,
        "given": given.inputs,
        "recipe": detector.recipe(trainer.recipe).effective(),
        "architecture": trainer.architecture,
        "seed": trainer.seed,
    }
    kept = trainer.keep("detection", inputs, make).tensors
    notes = {name.removeprefix("note "): value for name, value in kept.items() if name != "scores"}
    return Scored(kept["scores"], notes)
