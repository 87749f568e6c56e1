"""What methods share, and how they are kept from changing it for each other."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from helpers import TINY, random_dataset

import nab
from nab.data import Dataset
from nab.defenses import FineTune, Plain, Supply, attacked_model
from nab.detection import Detector, Scored
from nab.errors import ConfigError, NabError
from nab.needs import Given
from nab.training import Memory, Output, Trainer, monitored


def test_verified_images_are_each_method_s_own_and_normalized_as_the_training_set(noise, tiny_trainer):
    verified = random_dataset(8, seed=1)
    normalization = dataclasses.replace(noise.normalization, std=(0.5, 0.5, 0.5))
    supply = Supply(noise.replace(normalization=normalization), tiny_trainer(), verified)
    one, other = (supply.give(FineTune()).require_verified() for _ in range(2))
    assert one.normalization == normalization
    one.images.zero_()
    one.labels.zero_()
    assert torch.equal(other.images, verified.images)
    assert torch.equal(other.labels, verified.labels)


def test_two_watched_trainings_of_one_purpose_are_an_error(noise, tiny_trainer):
    class Fixed:
        inputs: ClassVar[dict[str, Any]] = {}

        def __call__(self, deployed: Any) -> dict[str, float]:
            return {"measured": 1.0}

    with monitored(Fixed()):
        trainer: Trainer = tiny_trainer()
        attacked_model(noise, trainer)
        attacked_model(noise, trainer)  # the very same one
        longer = dataclasses.replace(TINY, epochs=3)
        with pytest.raises(ConfigError, match="two watched trainings are for 'training'"):
            trainer.train(noise, "training", recipe=longer, watch=Plain)


@dataclasses.dataclass(frozen=True)
class Writer(Detector):
    """Writes into what it is handed."""

    what: str = "labels"

    summary: ClassVar[str] = "a test"
    source: ClassVar[str] = "a test"
    needs: ClassVar[frozenset[str]] = frozenset({"verified", "attacked model"})

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        verified, attacked = given.require_verified(), given.require_attacked()
        if self.what == "given":
            verified.labels.zero_()
            attacked.curve.clear()
            next(attacked.predictor.network.parameters()).data.zero_()
        else:
            getattr(dataset, self.what)[:5] = 1
        return Scored(torch.arange(len(dataset)).float())


@pytest.mark.parametrize("what", ["labels", "images"])
def test_a_detector_may_not_write_into_the_training_set(noise, tiny_trainer, what):
    with pytest.raises(NabError, match="Writer wrote into the training set, which others use"):
        nab.find_suspects(noise, Writer(what), trainer=tiny_trainer(), verified=random_dataset(8, seed=1))


def test_what_one_method_does_to_what_it_is_given_no_other_sees(noise, tiny_trainer):
    supply = Supply(noise, tiny_trainer(), random_dataset(8, seed=1))
    key = supply.give(Writer()).require_attacked().predictor.digest
    Writer("given").score(noise, supply.trainer, supply.give(Writer()))
    given = supply.give(Writer())
    assert given.require_attacked().predictor.digest == key
    assert len(given.require_attacked().curve) == TINY.epochs
    assert given.require_verified().labels.sum() > 0


def test_a_try_that_failed_within_a_stage_costs_the_same_when_the_stage_is_found(tiny_trainer):
    keeper = Memory()

    def fail() -> Output:
        raise RuntimeError

    def outer() -> Output:
        with contextlib.suppress(RuntimeError):
            trainer.keep("inner", {}, fail)
        return Output()

    found = []
    for _ in range(2):
        trainer: Trainer = tiny_trainer(keeper=keeper)
        trainer.keep("outer", {}, outer)
        found.append(trainer.ledger.seconds)
    assert found[0] == found[1]
    assert set(found[0]) == {"inner", "outer"}
