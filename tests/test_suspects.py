"""From a training set to its suspects, with a planted answer; and who is handed what."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from helpers import TINY, random_dataset

import nab
from nab.data import Dataset
from nab.defenses import NAB, NoDefense, Supply, known_suspects
from nab.detection import Detector, Scored, SpectralSignatures
from nab.errors import ConfigError, DataError
from nab.models import ResNet9
from nab.needs import NEEDS, Given
from nab.pseudolabels import VD, Labeler, OracleLabeler, SecondLikely
from nab.stamp import Stamp
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class Planted(Detector):
    """Suspects samples 2, 5 and 7."""

    summary: ClassVar[str] = "planted"
    source: ClassVar[str] = "this test"

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        scores = torch.zeros(len(dataset))
        scores[[2, 5, 7]] = torch.tensor([3.0, 2.0, 1.0])
        return Scored(scores, {"seen": torch.tensor([1.0])})


@dataclasses.dataclass(frozen=True)
class Guess(Labeler):
    """Says class 1 of every sample."""

    summary: ClassVar[str] = "planted"
    source: ClassVar[str] = "this test"

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> torch.Tensor:
        return torch.ones(len(dataset), dtype=torch.long)


@dataclasses.dataclass(frozen=True)
class Busy(Planted):
    """Counts as hours of work: must not be started when the rest is known to fail."""

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        raise AssertionError("the detector was started in vain")


@dataclasses.dataclass(frozen=True)
class OfAClass(Busy):
    """Ranks the samples of one class."""

    judges_classes: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Few(Planted):
    """Finds three samples suspicious and no other."""

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        scores = super().score(dataset, trainer, given).scores
        return Scored(torch.where(scores > 0, scores, -torch.inf))


@pytest.fixture
def ten() -> Dataset:
    """Labels 0, 1, 2, 3, 0, 1, 2, 3, 0, 1."""
    return random_dataset(10)


def test_the_planted_suspects_are_found(ten):
    found = nab.find_suspects(ten, Planted(), Guess(), 0.3)
    assert found.is_suspect.nonzero().squeeze(1).tolist() == [2, 5, 7]
    assert found.scores.tolist() == [0, 0, 3, 0, 0, 2, 0, 1, 0, 0]
    assert found.pseudo_labels is not None
    assert found.pseudo_labels.tolist() == [1] * 10
    assert found.relabeled(ten).labels.tolist() == [0, 1, 1, 3, 0, 1, 2, 1, 0, 1]


def test_a_threshold_takes_the_place_of_the_rate(ten):
    found = nab.find_suspects(ten, Planted(), threshold=1.5)
    assert found.is_suspect.nonzero().squeeze(1).tolist() == [2, 5]


def test_suspects_without_a_labeler_have_no_labels(ten):
    found = nab.find_suspects(ten, Planted(), rate=0.3)
    assert found.pseudo_labels is None
    with pytest.raises(ConfigError, match="suspects with pseudo labels, got suspects alone: name a labeler"):
        found.relabeled(ten)


def test_suspects_and_labels_can_come_from_elsewhere(ten):
    found = known_suspects(ten, [True] + [False] * 8 + [True], torch.tensor([3] * 10))
    assert found.is_suspect.nonzero().squeeze(1).tolist() == [0, 9]
    assert found.scores.tolist() == [0.0] + [-float("inf")] * 8 + [0.0]
    defended = nab.defend(NoDefense(), ten, suspicion=found, trainer=Trainer(TINY, ResNet9(4)))
    assert defended.suspicion is not None
    assert torch.equal(defended.suspicion.is_suspect, found.is_suspect)
    assert torch.equal(defended.suspicion.scores, found.scores)


@pytest.mark.parametrize(
    ("is_suspect", "labels", "told"),
    [
        (torch.zeros(9, dtype=torch.bool), None, r"is_suspect as torch.bool of length 10, got torch.bool \(9,\)"),
        (torch.tensor([2, 5, 7]), None, r"is_suspect as torch.bool of length 10, got torch.int64 \(3,\)"),
        ([True] * 10, torch.zeros(10), "pseudo_labels as torch.int64 of length 10, got torch.float32"),
        ([True] * 10, torch.full((10,), 4), "pseudo_labels from 0 to 3, got 4 to 4"),
    ],
)
def test_what_comes_from_elsewhere_must_fit_the_dataset(ten, is_suspect, labels, told):
    with pytest.raises(ConfigError, match=told):
        known_suspects(ten, is_suspect, labels)


def test_missing_verified_data_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match="VD needs verified data"):
        nab.find_suspects(ten, Busy(), VD(), 0.3)
    with pytest.raises(ConfigError, match="FineTune needs verified data"):
        nab.defend(nab.DEFENSES["fine-tune"](), ten)


def test_samples_of_one_class_are_noticed_before_the_detector_starts(ten):
    same = ten.replace(labels=torch.full((10,), 2))
    with pytest.raises(DataError, match=r"at least two classes, got 10 that are all labeled 'c'"):
        nab.find_suspects(same, Busy(), Guess(), 0.3)


def test_a_class_that_the_verified_data_lacks_is_told(ten, caplog):
    """Only VD reads verified data here; what it learns does not matter."""
    lacking = ten.subset((ten.labels != 0).nonzero().squeeze(1))
    trainer = Trainer(TINY, ResNet9(4))
    for verified, told in ((ten, False), (lacking, True)):
        caplog.clear()
        nab.find_suspects(ten, Planted(), VD(epochs=1), 0.3, verified=verified, trainer=trainer)
        assert ("the verified data has no sample of class 'a'" in caplog.text) == told


def test_a_rate_that_names_nobody_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match=r"at least one of 10 samples, got 0\.05"):
        nab.find_suspects(ten, Busy(), Guess(), 0.05)


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_a_rate_outside_0_to_1_is_refused(ten, rate):
    with pytest.raises(ConfigError, match=rf"in \(0, 1\), got {rate}"):
        nab.find_suspects(ten, Busy(), rate=rate)


def test_a_stamp_that_does_not_fit_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match="at most half the image"):
        nab.defend(NAB(stamp=Stamp(size=5)), ten, detector=Busy(), labeler=Guess(), rate=0.3)


def test_ranks_within_classes_are_no_ground_for_an_automatic_rate(ten):
    with pytest.raises(ConfigError, match=r"OfAClass ranks the samples of a class.*give a share such as 0\.05"):
        nab.find_suspects(ten, OfAClass(), Guess(), "auto")


@pytest.mark.parametrize(("rate", "told"), [(0.3, False), (0.5, True)])
def test_fewer_suspects_than_asked_for_are_told(ten, caplog, rate, told):
    nab.find_suspects(ten, Few(), Guess(), rate)
    assert ("only 3 of 10 samples suspicious, fewer than the 50 %" in caplog.text) == told


# Who is handed what.


def needing(*needs: str) -> Detector:
    """A detector that declares these needs."""
    kind: Any = type("Needing", (Planted,), {"needs": frozenset(needs)})
    return dataclasses.dataclass(frozen=True)(kind)()


FIELDS = {"suspects": "suspicion", "pseudo labels": "suspicion", "features": "encoder", "attacked model": "attacked"}


@pytest.mark.parametrize("need", NEEDS)
def test_a_method_is_handed_what_it_declares_and_nothing_else(need, tiny_supply):
    supply = tiny_supply()
    suspicion = known_suspects(supply.dataset, torch.ones(len(supply.dataset), dtype=torch.bool))
    given = supply.give(needing(need), suspicion)
    held = {name for name, value in vars(given).items() if value is not None}
    assert held == {FIELDS.get(need, need)}
    assert not any(value is not None for value in vars(supply.give(needing(), suspicion)).values())


def test_an_unknown_need_is_refused(tiny_supply):
    with pytest.raises(ConfigError, match=r"unknown need \['monitor'\]"):
        tiny_supply().give(needing("monitor"))


def test_suspects_that_nobody_looked_for_are_asked_for(tiny_supply):
    with pytest.raises(ConfigError, match="needs suspects: name a detector, or pass a Suspicion"):
        tiny_supply().give(needing("suspects"))


@dataclasses.dataclass(frozen=True)
class Nosy(Planted):
    """Writes down whether it was handed the truth."""

    seen: ClassVar[list[bool]] = []

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        self.seen.append(given.truth is not None)
        return super().score(dataset, trainer, given)


def test_a_real_detector_is_not_handed_the_truth_that_an_oracle_beside_it_needs(poisoned_digits, tiny_trainer):
    Nosy.seen.clear()
    nab.find_suspects(
        poisoned_digits.dataset, Nosy(), OracleLabeler(), 0.1, trainer=tiny_trainer(), truth=poisoned_digits.truth
    )
    assert Nosy.seen == [False]


def test_the_attacked_model_is_trained_once_for_detector_labeler_and_defense(poisoned_digits, tiny_trainer):
    trainer = tiny_trainer()
    options = {"detector": SpectralSignatures(), "labeler": SecondLikely(), "trainer": trainer}
    nab.defend(nab.DEFENSES["audit"](), poisoned_digits.dataset, **options)
    names = [cost.stage for cost in trainer.ledger.costs.values()]
    assert names.count("training") == 1


def test_without_a_cache_too_the_attacked_model_is_trained_once_for_detector_and_labeler(poisoned_digits, tiny_trainer):
    made = []

    def keeper(stage, inputs, make):
        made.append(stage)
        return make()

    trainer = tiny_trainer(keeper=keeper)
    nab.find_suspects(poisoned_digits.dataset, SpectralSignatures(), SecondLikely(), trainer=trainer)
    assert made.count("training") == 1


def test_a_method_cannot_change_the_attacked_model_of_others(tiny_supply):
    supply = tiny_supply()
    first = supply.give(needing("attacked model")).attacked
    assert first is not None
    with torch.no_grad():
        first.predictor.network.classifier.weight.zero_()
    second = supply.give(needing("attacked model")).attacked
    assert second is not None
    assert bool(second.predictor.network.classifier.weight.any())


def test_notes_of_the_detector_are_handed_on(ten):
    defended = nab.defend(
        nab.DEFENSES["audit"](), ten, detector=Planted(), labeler=Guess(), rate=0.3, trainer=Trainer(TINY, ResNet9(4))
    )
    seen = defended.notes["seen"]
    assert isinstance(seen, torch.Tensor)
    assert torch.equal(seen, torch.tensor([1.0]))


def test_supply_takes_the_paper_s_encoder_by_default(ten):
    assert type(Supply(ten, Trainer()).encoder).__name__ == "SimCLR"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"detector": "lga"}, "expected detector as a Detector, such as nab.detection.LGA(), got 'lga'"),
        ({"labeler": VD}, "expected labeler as a Labeler, .*got <class"),
        ({"trainer": 5}, r"expected trainer as a Trainer, such as nab.Trainer\(\), got 5"),
        ({"verified": 3}, "expected verified as a Dataset"),
        ({"encoder": "simclr"}, "expected encoder as a SelfSupervised"),
    ],
    ids=str,
)
def test_what_is_no_method_is_told_with_an_example(ten, given, told):
    with pytest.raises(ConfigError, match=told.replace("LGA()", r"LGA\(\)")):
        nab.find_suspects(ten, **given)
    with pytest.raises(ConfigError, match="expected defense as a Defense"):
        nab.defend("nab", ten)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected dataset as a Dataset, .*got Tensor"):
        nab.find_suspects(ten.images)


@pytest.mark.parametrize(("rate", "is_told"), [(0.3, False), (0.2, True)])
def test_samples_that_the_detector_cannot_tell_apart_at_the_cut_are_told(ten, caplog, rate, is_told):
    class Tied(Planted):
        def score(self, dataset, trainer, given):
            return Scored(torch.tensor([1.0, 1.0, 1.0, *range(-7, 0)]))

    nab.find_suspects(ten, Tied(), rate=rate, trainer=Trainer(TINY, ResNet9(4)))
    assert ("Tied gives one score to 3 samples, of which the first 2 are suspects" in caplog.text) == is_told
