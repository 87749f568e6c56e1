"""Detectors: the conformance table, what is refused, handed over and kept. From scores to suspects: `test_cut`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from helpers import TINY, alternatives, counting_keeper, small
from planted import planted

import nab
from nab import detection as package
from nab.detection import (
    DETECTORS,
    LGA,
    Beatrix,
    Detector,
    Ensemble,
    Member,
    SCAn,
    Scored,
    SpectralSignatures,
    find_scores,
)
from nab.errors import ConfigError, NabError
from nab.experiments.profiles import Profile, Study
from nab.needs import Given
from nab.pseudolabels import SecondLikely
from nab.training import Trainer

every_detector = pytest.mark.parametrize("name", sorted(DETECTORS))


def scores_of(detector: Detector, supply) -> torch.Tensor:
    """The detector's scores, given what it declares that it needs."""
    return detector.score(supply.dataset, supply.trainer, supply.give(detector)).scores


# The conformance table.


@every_detector
def test_every_sample_gets_a_score_the_same_one_twice(name, tiny_supply):
    dataset, detector = tiny_supply().dataset, small(DETECTORS[name])
    images, labels = dataset.images.clone(), dataset.labels.clone()
    one, other = (scores_of(detector, tiny_supply()) for _ in range(2))
    assert one.shape == (len(dataset),)
    assert one.dtype == torch.float32
    assert one.device.type == "cpu"
    assert not one.isnan().any()
    assert one.max().isfinite(), "only minus infinity says something: never a suspect"
    assert torch.equal(one, other)
    assert one.unique().numel() > 1
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"


NEEDS = {
    "lga": set(),
    "ln": {"features"},
    "spectral-signatures": {"attacked model"},
    "spectre": {"attacked model"},
    "activation-clustering": {"attacked model"},
    "scan": {"verified", "attacked model"},
    "beatrix": {"verified", "attacked model"},
    "strip": {"verified", "attacked model"},
    "cognitive-distillation": {"attacked model"},
    "fct": set(),
    "ensemble": {"verified", "attacked model"},
    "random": set(),
    "oracle": {"truth"},
}


@every_detector
def test_a_detector_declares_what_it_needs_and_says_what_is_missing(name, tiny_supply):
    """An ensemble needs what its members need; these are LGA, SCAn, STRIP and FCT."""
    assert DETECTORS[name]().needs == NEEDS[name]
    detector, supply = small(DETECTORS[name]), tiny_supply()
    if detector.needs:
        with pytest.raises(ConfigError, match="among what the method is given, got none"):
            detector.score(supply.dataset, supply.trainer, Given())
    else:
        detector.score(supply.dataset, supply.trainer, Given())


@every_detector
def test_another_seed_gives_other_scores(name, tiny_supply, tiny_trainer):
    detector = small(DETECTORS[name])
    one, other = (scores_of(detector, tiny_supply(trainer=tiny_trainer(seed=seed))) for seed in (0, 1))
    assert not torch.equal(one, other)


@every_detector
def test_a_detector_is_a_frozen_value_that_describes_itself(name):
    detector = DETECTORS[name]()
    assert hash(detector) == hash(DETECTORS[name]())
    assert eval(repr(detector), vars(package)) == detector
    for field in dataclasses.fields(detector):
        assert field.name in repr(detector)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(detector, field.name, None)
    assert detector.summary
    assert detector.source


SHOWN_ELSEWHERE = {
    ("ensemble", "rate"),
    ("beatrix", "percentile"),
    ("beatrix", "threshold"),
    ("beatrix", "samples"),
    ("spectre", "components"),
    ("spectre", "alpha"),
}
"""What may leave the order as it is on so few samples; the detector's own test file shows what it does."""


@every_detector
def test_every_hyper_parameter_changes_the_scores_or_is_checked(name, tiny_supply, tiny_trainer):
    """The attacked model has learned something: else all classes look alike."""
    base, supply = small(DETECTORS[name]), tiny_supply(trainer=tiny_trainer(recipe=dataclasses.replace(TINY, epochs=8)))
    plain = scores_of(base, supply)
    for field in dataclasses.fields(base):
        if (name, field.name) in SHOWN_ELSEWHERE:
            continue
        values = alternatives(getattr(base, field.name))
        changed = False
        for value in values:
            try:
                scores = scores_of(dataclasses.replace(base, **{field.name: value}), supply)
            except NabError:
                continue
            changed = not torch.equal(scores, plain)
            if changed:
                break
        if not values:
            with pytest.raises(NabError):
                dataclasses.replace(base, **{field.name: "no such thing"})
            changed = True
        assert changed, f"{field.name} does nothing"


# What is refused before anything is trained.


def training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(Trainer, "train", fail)


JUDGES_OF_CLASSES = ["activation-clustering", "beatrix", "scan", "spectral-signatures", "spectre"]


@pytest.mark.parametrize("name", JUDGES_OF_CLASSES)
def test_classes_too_small_to_be_judged_are_refused_before_anything_is_trained(name, monkeypatch):
    training_fails(monkeypatch)
    dataset, _ = planted(0, size=7)
    with pytest.raises(NabError, match="a class of at least 8 samples, got at most 7 per class"):
        nab.find_suspects(dataset, DETECTORS[name](), verified=planted(0, size=15)[0])


@pytest.mark.parametrize("name", [*JUDGES_OF_CLASSES, "fct", "ln", "ensemble"])
def test_a_single_class_is_refused_by_detectors_that_compare_classes(name):
    dataset = planted(0)[0]
    one = dataset.replace(labels=torch.zeros(len(dataset), dtype=torch.int64))
    with pytest.raises(NabError, match="at least two"):
        DETECTORS[name]().check(one, Trainer())
    DETECTORS[name]().check(dataset, Trainer())


@pytest.mark.parametrize(
    ("detector", "index", "told"),
    [
        (SCAn(), [0, 1, 2, 3, 4, 5, 6], "got 7 of 1"),
        (SCAn(), [0, 1, 15, 16, 30], "at least 4 more.*got 5 of 3"),
        (Ensemble((Member("scan"), Member("random"))), [0, 1, 15, 16, 30], "at least 4 more.*got 5 of 3"),
        (Beatrix(), [0, 15, 30, 45], "at least 5 verified images, got 4"),
    ],
    ids=["scan of one class", "scan", "ensemble", "beatrix"],
)
def test_too_few_verified_images_are_refused_before_anything_is_trained(detector, index, told, monkeypatch):
    training_fails(monkeypatch)
    verified = planted(0, size=15)[0].subset(torch.tensor(index))
    with pytest.raises(NabError, match=told):
        nab.find_suspects(planted()[0], detector, verified=verified)


@pytest.mark.parametrize("name", ["scan", "beatrix", "strip", "ensemble"])
def test_missing_verified_images_are_told_before_anything_is_trained(name, monkeypatch):
    training_fails(monkeypatch)
    with pytest.raises(ConfigError, match=f"{DETECTORS[name].__name__} needs verified data"):
        nab.find_suspects(planted()[0], DETECTORS[name]())


# What is handed over and what is kept.


@pytest.mark.parametrize("is_cached", [False, True])
def test_detector_and_labeler_share_one_attacked_model(is_cached, poisoned_digits, tiny_trainer, monkeypatch):
    trained = []
    plain = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda *args, **options: trained.append(args[2]) or plain(*args, **options))
    keeper, made = counting_keeper()
    trainer = tiny_trainer(keeper=keeper if is_cached else lambda stage, inputs, make: make())
    for runs in (1, 2):
        found = nab.find_suspects(poisoned_digits.dataset, SpectralSignatures(), SecondLikely(), trainer=trainer)
        assert trained == ["training"] * runs, "asked for once by both"
        assert made == (["training", "detection", "pseudo labels"] if is_cached else []), "made once in all"
    assert found.pseudo_labels is not None


class Meddler(Detector):
    """Notes what it was given, and ruins the attacked model."""

    summary = source = "for this test"
    needs = frozenset({"attacked model"})
    seen: ClassVar[list[Given]] = []

    def score(self, dataset, trainer, given):
        self.seen.append(given)
        for parameter in given.require_attacked().predictor.network.parameters():
            parameter.data.zero_()
        return Scored(torch.arange(float(len(dataset))))


def test_a_detector_is_given_what_it_declares_and_no_more_and_a_model_of_its_own(tiny_supply):
    Meddler.seen.clear()
    supply = tiny_supply()
    everything = dataclasses.replace(supply.give(Meddler()), verified=supply.verified, truth=supply.truth)
    find_scores(Meddler(), supply.dataset, supply.trainer, everything)
    (given,) = Meddler.seen
    assert [name for name, value in vars(given).items() if value is not None] == ["attacked"]
    assert supply.give(Meddler()).require_attacked().predictor.network.classifier.weight.abs().max() > 0


def test_scores_and_notes_are_kept(tiny_supply, tiny_trainer):
    keeper, made = counting_keeper()
    supply = tiny_supply(trainer=tiny_trainer(keeper=keeper))
    detector = LGA(epochs=2)
    one, other = (find_scores(detector, supply.dataset, supply.trainer, supply.give(detector)) for _ in range(2))
    assert made == ["detection"]
    assert torch.equal(one.scores, other.scores)
    assert list(one.notes) == list(other.notes) == ["lga_losses"]
    assert one.notes["lga_losses"].shape == (2, len(supply.dataset))


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"truth"})])
def test_scores_that_are_no_numbers_are_refused_of_an_oracle_too(needs, tiny_supply):
    class Broken(Detector):
        summary = source = "for this test"

        def score(self, dataset, trainer, given):
            return Scored(torch.full((len(dataset),), torch.nan))

    Broken.needs = needs
    supply = tiny_supply()
    with pytest.raises(NabError, match="finite suspicion scores, got nan for sample 0"):
        find_scores(Broken(), supply.dataset, supply.trainer, supply.give(Broken()))


def test_a_profile_that_asks_for_all_detectors_gets_all_but_the_oracle_and_the_ensemble_too():
    """An ensemble's needs are known of an instance alone."""
    profile = Profile(
        name="wide",
        summary="for this test",
        run={"defense": "nab", "labeler": "vd"},
        grid=[Study(name="detectors", runs={"detector": "all"})],
    )
    assert [config.settings["detector"]["name"] for config, _ in profile.expand()] == [
        name for name in DETECTORS if name != "oracle"
    ]
