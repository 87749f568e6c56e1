"""What all labellers share."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.selfsupervised import encoder_inputs
from nab.stamp import Stamp
from nab.training import Context, Output, Recipe


@dataclasses.dataclass(frozen=True)
class Labeler(abc.ABC):
    """Guesses true labels.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `label` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give other labels, so that labels kept before are not used."""

    is_oracle: ClassVar[bool] = False
    """Whether it reads the ground truth, which only ablations may."""

    needs_verified: ClassVar[bool] = False
    """Whether it needs a small set of clean, correctly labelled images."""

    needs_features: ClassVar[bool] = False
    """Whether it needs self-supervised features; see `nab.selfsupervised`."""

    reads_scores: ClassVar[bool] = False
    """Whether its labels depend on the detector's scores, beyond who is a suspect."""

    def recipe(self, base: Recipe) -> Recipe:
        """How the labeller's own network is trained, from the final network's recipe; ``base`` itself by default."""
        return base

    @abc.abstractmethod
    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        """A label for every sample, of which only the suspects' are used.

        Args:
            dataset: the training set as the defender sees it.
            context: how to train; verified data; the detector's scores.
            is_suspect: bool, N; what a detector picked.
            stamp: the defender's stamp, for labellers that see images through it.

        Returns:
            int64, N, on the CPU.
        """


def trusted(dataset: Dataset, is_suspect: Tensor, scores: Tensor | None, rate: float) -> Tensor:
    """The samples whose labels are believed: all but the suspects and the share of the highest scores.

    Suspects are few, so much poison is left among the others. Who leaves out more loses little: most of what is left
    out besides is innocent, and there are enough innocents. A class of which nothing would be left keeps all of its
    samples that are no suspects.

    Args:
        dataset: the training set.
        is_suspect: bool, N.
        scores: see `Context`; without them, all but the suspects are believed.
        rate: share of samples with the highest scores that are left out, in [0, 1).

    Returns:
        bool, N.
    """
    is_innocent = ~is_suspect
    if scores is None:
        return is_innocent
    most = scores.argsort(descending=True, stable=True)[: int(rate * len(scores))]
    is_left = is_innocent.clone()
    is_left[most[scores[most] > -math.inf]] = False
    counts = dataset.labels[is_left].bincount(minlength=dataset.num_classes)
    return is_left | (is_innocent & (counts == 0)[dataset.labels])


def guess_labels(labeler: Labeler, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
    """The labeller's labels, kept as a stage; of the truth only an oracle sees anything. Arguments as for `label`."""
    if labeler.is_oracle:
        return labeler.label(dataset, context, is_suspect=is_suspect, stamp=stamp)
    own = dataclasses.replace(
        context,
        truth=None,
        verified=context.verified if labeler.needs_verified else None,
        encoder=context.encoder if labeler.needs_features else None,
        scores=context.scores if labeler.reads_scores else None,
    )
    inputs = {
        "version": labeler.version,
        "labeler": labeler,
        "dataset": dataset,
        "verified": own.verified,
        "is_suspect": is_suspect,
        "stamp": stamp,
        "recipe": labeler.recipe(context.recipe).effective(),
        "model": context.model,
        "width": context.width,
        "seed": context.seed,
    }
    if labeler.needs_features:
        inputs["encoder"] = encoder_inputs(own)
    if labeler.reads_scores:
        inputs["scores"] = own.scores

    def make() -> Output:
        return Output({"labels": labeler.label(dataset, own, is_suspect=is_suspect, stamp=stamp)})

    return context.keep("pseudo labels", inputs, make).tensors["labels"]
