"""From a training set to its suspects, and from a method's needs to what it is handed."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor

from nab.checks import check_kind
from nab.data import Dataset, GroundTruth
from nab.defenses.base import Defended, Defense
from nab.defenses.supply import Supply
from nab.detection import LGA, Detector, Rate, Scored, check_cut, find_scores, select_suspects
from nab.errors import ConfigError, DataError
from nab.needs import Suspicion, left_alone
from nab.pseudolabels import VD, Labeler, guess_labels
from nab.selfsupervised import SelfSupervised, SimCLR
from nab.training import Trainer

ARBITRARY_SHARE = 0.25
"""A share of the suspects. If so many have the score of samples that are not suspected, there is a warning."""

log = logging.getLogger(__name__)


def find_suspects(
    dataset: Dataset,
    detector: Detector | None = None,
    labeler: Labeler | None = None,
    rate: Rate | None = 0.05,
    *,
    threshold: float | None = None,
    trainer: Trainer | None = None,
    verified: Dataset | None = None,
    encoder: SelfSupervised | None = None,
    truth: GroundTruth | None = None,
) -> Suspicion:
    """What a detector suspects, and what a labeler guesses that suspects show.

    Args:
        dataset: the training set that cannot be trusted.
        detector: scores every sample; LGA, the paper's, by default.
        labeler: guesses labels; None for no labels.
        rate: share of the training set that is suspected, in (0, 1), the paper's 5 % by default; ``"auto"`` takes it
            from the scores, see `nab.detection.automatic_cut`.
        threshold: in place of the rate, suspects all samples that score above it.
        trainer: how networks are trained; the paper's ResNet-18 on the CPU by default.
        verified: a small set of clean, correctly labeled images, for methods that need one.
        encoder: trains the features of methods that need them; SimCLR by default.
        truth: for oracles, which exist for ablations.

    Raises:
        ConfigError: before anything is trained: a method needs what is missing, or the rate selects no sample.
        DataError: all samples have one label.
    """
    supply = Supply(dataset, trainer or Trainer(), verified, encoder or SimCLR(), truth)
    cut: Rate | None = None if threshold is not None else rate
    return suspicion_from(supply, detector or LGA(), labeler, cut, threshold)[0]


def suspicion_from(
    supply: Supply, detector: Detector, labeler: Labeler | None, rate: Rate | None, threshold: float | None = None
) -> tuple[Suspicion, Scored]:
    """The suspicion and what the detector found besides; see `find_suspects`."""
    dataset, trainer = supply.dataset, supply.trainer
    check_kind("detector", detector, Detector, "nab.detection.LGA()")
    if labeler is not None:
        check_kind("labeler", labeler, Labeler, "nab.pseudolabels.VD()")
    _check(dataset, detector, rate, threshold)
    supply.check(detector)
    detector.check(dataset, trainer, supply.verified)
    if labeler is not None:
        supply.check(labeler)
        labeler.check(dataset, trainer, supply.verified)
        _tell_missing_classes(dataset, labeler, supply.verified)
    found = find_scores(detector, dataset, trainer, supply.give(detector))
    is_suspect = select_suspects(found.scores, rate, threshold=threshold)
    _tell_shortfall(int(is_suspect.sum()), len(dataset), rate)
    _tell_ties(detector, found.scores, is_suspect)
    return add_labels(supply, Suspicion(found.scores, is_suspect), labeler), found


def add_labels(supply: Supply, suspicion: Suspicion, labeler: Labeler | None) -> Suspicion:
    """The suspicion with a labeler's guesses; the very same one without a labeler."""
    if labeler is None:
        return suspicion
    labels = guess_labels(labeler, supply.dataset, supply.trainer, supply.give(labeler, suspicion))
    return dataclasses.replace(suspicion, pseudo_labels=labels)


def known_suspects(dataset: Dataset, is_suspect: Any, pseudo_labels: Any = None, scores: Any = None) -> Suspicion:
    """Suspects, and labels if there are any, that were found in another way.

    Args:
        dataset: the training set.
        is_suspect: bool, N.
        pseudo_labels: int64, N.
        scores: float32, N; higher = more suspicious. By default, suspects are equal and above all others.

    Raises:
        ConfigError: a tensor has another shape or type, or a label is none of the classes.
    """
    mask = _checked(is_suspect, torch.bool, "is_suspect", dataset)
    labels = None if pseudo_labels is None else _checked(pseudo_labels, torch.int64, "pseudo_labels", dataset)
    if scores is not None:
        return Suspicion(_checked(scores, torch.float32, "scores", dataset), mask, labels)
    # Nobody ranked the others: they are below every suspect, and equal.
    return Suspicion(torch.zeros(len(dataset)).masked_fill(~mask, -torch.inf), mask, labels)


def defend(
    defense: Defense,
    dataset: Dataset,
    *,
    detector: Detector | None = None,
    labeler: Labeler | None = None,
    rate: Rate | None = 0.05,
    threshold: float | None = None,
    suspicion: Suspicion | None = None,
    trainer: Trainer | None = None,
    verified: Dataset | None = None,
    encoder: SelfSupervised | None = None,
    truth: GroundTruth | None = None,
) -> Defended:
    """Let a defense train on a set that cannot be trusted, with what it needs and nothing else.

    Args:
        defense: who trains.
        dataset: the training set that cannot be trusted.
        detector: for a defense that needs suspects; LGA by default. So are ``rate`` and ``threshold``.
        labeler: for a defense that needs pseudo labels; VD by default.
        rate: see `find_suspects`.
        threshold: see `find_suspects`.
        suspicion: suspects that were found before, in place of a detector's.
        trainer: how networks are trained; the paper's ResNet-18 on the CPU by default.
        verified: a small set of clean, correctly labeled images, for methods that need one.
        encoder: trains the features of methods that need them; SimCLR by default.
        truth: for oracles, which exist for ablations.

    Raises:
        NabError: before anything is trained: something that is needed is missing or not valid.
    """
    supply = Supply(dataset, trainer or Trainer(), verified, encoder or SimCLR(), truth)
    check_kind("defense", defense, Defense, "nab.defenses.NAB()")
    if suspicion is not None:
        check_kind("suspicion", suspicion, Suspicion, "nab.find_suspects(...)")
    if "truth" in defense.needs:
        raise ConfigError(f"{type(defense).__name__} needs the truth, which no defense may be given")
    supply.check(defense)
    defense.check(dataset, supply.trainer, supply.verified)
    notes: dict[str, object] = {}
    if suspicion is None and "suspects" in defense.needs:
        guesser = (labeler or VD()) if "pseudo labels" in defense.needs else labeler
        cut = None if threshold is not None else rate
        suspicion, found = suspicion_from(supply, detector or LGA(), guesser, cut, threshold)
        notes = dict(found.notes)
    elif suspicion is not None:
        suspicion = known_suspects(dataset, suspicion.is_suspect, suspicion.pseudo_labels, suspicion.scores)
        if "pseudo labels" in defense.needs and suspicion.pseudo_labels is None:
            suspicion = add_labels(supply, suspicion, labeler or VD())
    given = supply.give(defense, suspicion)
    who = type(defense).__name__
    with left_alone(who, dataset), supply.trainer.ledger.part(f"defense: {who}"):
        defended = defense.defend(dataset, supply.trainer, given)
    return dataclasses.replace(defended, suspicion=defended.suspicion or suspicion, notes={**notes, **defended.notes})


def _check(dataset: Dataset, detector: Detector, rate: Rate | None, threshold: float | None) -> None:
    """What would fail after minutes of training fails here."""
    names = [dataset.classes[int(label)] for label in dataset.labels.unique()]
    if len(names) < 2:
        raise DataError(
            f"expected samples of at least two classes, got {len(dataset)} that are all labeled {names[0]!r}: nothing "
            "tells poison from the rest, and there is no other label to give it"
        )
    check_cut(rate, threshold, len(dataset))
    if rate == "auto" and detector.judges_classes:
        raise ConfigError(
            f"detector {type(detector).__name__} ranks the samples of a class, which leaves no gap for an automatic "
            "detection_rate: give a share such as 0.05, or take another detector"
        )


def _tell_missing_classes(dataset: Dataset, labeler: Labeler, verified: Dataset | None) -> None:
    if "verified" not in labeler.needs or verified is None:
        return
    missing = sorted(set(dataset.labels.tolist()) - set(verified.labels.tolist()))
    if missing:
        log.warning(
            "the verified data has no sample of class %s, so no pseudo label will be one of those",
            ", ".join(repr(dataset.classes[label]) for label in missing),
        )


def _tell_shortfall(found: int, size: int, rate: Rate | None) -> None:
    if isinstance(rate, float) and found < int(rate * size):
        log.warning(
            "the detector finds only %d of %d samples suspicious, fewer than the %.3g %% that were asked for",
            found,
            size,
            100 * rate,
        )


def _tell_ties(detector: Detector, scores: Tensor, is_suspect: Tensor) -> None:
    """Warn if many suspects have the same score as samples that are not suspected."""
    if not is_suspect.any():
        return
    lowest = scores[is_suspect].min()
    tied, chosen = int((scores == lowest).sum()), int((scores[is_suspect] == lowest).sum())
    if tied > chosen and chosen >= ARBITRARY_SHARE * int(is_suspect.sum()):
        log.warning(
            "%s gives one score to %d samples, of which the first %d are suspects: it cannot tell them apart",
            type(detector).__name__,
            tied,
            chosen,
        )


def _checked(values: Any, dtype: torch.dtype, name: str, dataset: Dataset) -> Tensor:
    """``values`` as a tensor with one entry per sample."""
    tensor = torch.as_tensor(values).cpu()
    if tensor.dtype != dtype or tensor.shape != (len(dataset),):
        raise ConfigError(
            f"expected {name} as {dtype} of length {len(dataset)}, got {tensor.dtype} {tuple(tensor.shape)}"
        )
    if dtype == torch.int64 and not (int(tensor.min()) >= 0 and int(tensor.max()) < dataset.num_classes):
        raise ConfigError(
            f"expected {name} from 0 to {dataset.num_classes - 1}, got {int(tensor.min())} to {int(tensor.max())}"
        )
    return tensor
