"""What all detectors share: a score per training sample."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.detection.cut import check_scores
from nab.selfsupervised import encoder_inputs
from nab.training import Context, Output, Recipe


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Finds training samples that are likely poisoned.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `score` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give other scores, so that scores kept before are not used."""

    is_oracle: ClassVar[bool] = False
    """Whether it reads the ground truth, which only ablations may."""

    needs_verified: ClassVar[bool] = False
    """Whether it needs a small set of clean, correctly labelled images."""

    judges_classes: ClassVar[bool] = False
    """Whether its scores are ranks within classes that it judges first, see `gate_classes`; they have no gap."""

    needs_features: ClassVar[bool] = False
    """Whether it needs self-supervised features; see `nab.selfsupervised`."""

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's own network is trained, from the final network's recipe; ``base`` itself by default."""
        return base

    @abc.abstractmethod
    def score(self, dataset: Dataset, context: Context) -> Tensor:
        """Suspicion of every sample: float32, N, on the CPU, higher = more suspicious, minus infinity = never a
        suspect. The order is what counts; a detector that judges whole classes uses `gate_classes`."""


def find_scores(detector: Detector, dataset: Dataset, context: Context) -> Tensor:
    """The detector's scores and notes, kept as a stage; of the truth only an oracle sees anything.

    Raises:
        NabError: a score is not a number.
    """
    if detector.is_oracle:
        return check_scores(detector.score(dataset, context))
    own = dataclasses.replace(
        context,
        truth=None,
        verified=context.verified if detector.needs_verified else None,
        encoder=context.encoder if detector.needs_features else None,
        notes={},
    )
    inputs = {
        "version": detector.version,
        "detector": detector,
        "dataset": dataset,
        "verified": own.verified,
        "recipe": detector.recipe(context.recipe).effective(),
        "model": context.model,
        "width": context.width,
        "seed": context.seed,
    }
    if detector.needs_features:
        inputs["encoder"] = encoder_inputs(own)

    def make() -> Output:
        scores = check_scores(detector.score(dataset, own))
        return Output({"scores": scores} | {f"note {name}": value for name, value in own.notes.items()})

    found = context.keep("scores", inputs, make).tensors
    context.notes.update({name.removeprefix("note "): found[name] for name in found if name != "scores"})
    return found["scores"]
