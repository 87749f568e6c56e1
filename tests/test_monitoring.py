"""The monitor measures watched trainings, and no method can reach it, the test set or the truth."""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import fresh, marks, random_dataset, source_of, weights

from nab.attacks import BadNets, poison, trigger_all
from nab.data import Dataset
from nab.defenses import Defended, Defense, Plain, defend
from nab.detection import Detector, Scored
from nab.experiments.monitor import AttackMonitor
from nab.needs import NEEDS, Given
from nab.pseudolabels import Labeler
from nab.selfsupervised import SimCLR
from nab.stamp import Stamp
from nab.training import CrossEntropy, Trainer, current_monitor, fit, monitored


class Counter:
    """Counts what it is shown."""

    def __init__(self) -> None:
        self.inputs = {"counter": 1}
        self.seen: list[Any] = []

    def __call__(self, deployed: Any) -> dict[str, float]:
        self.seen.append(deployed)
        return {"clean_accuracy": float(len(self.seen))}


def test_a_watched_training_is_measured_after_every_epoch_as_deployed(tiny_trainer, noise):
    counter = Counter()
    with monitored(counter) as log:
        trained = tiny_trainer().train(noise, "x", watch=functools.partial(tuple_of, Stamp()))
    assert [row["clean_accuracy"] for row in log["x"]] == [1, 2]
    assert [stamp for stamp, _ in counter.seen] == [Stamp(), Stamp()]
    bare = [{name: row[name] for name in ("epoch", "loss", "lr")} for row in log["x"]]
    assert trained.curve == bare, "a method does not see what was measured"


def test_what_was_measured_is_found_again_with_the_training(tiny_trainer, noise):
    counter, trainer = Counter(), tiny_trainer()
    logs = []
    for _ in range(2):
        with monitored(counter) as log:
            trainer.train(noise, "x", watch=Plain)
        logs.append(log)
    assert len(counter.seen) == 2, "two epochs, once"
    assert logs[0] == logs[1] != {}


def tuple_of(stamp: Stamp, predictor: Any) -> tuple[Stamp, Any]:
    return stamp, predictor


def test_nothing_is_measured_unless_it_is_watched_in_a_block(tiny_trainer, noise):
    counter, trainer = Counter(), tiny_trainer()
    with monitored(counter) as log:
        trainer.train(noise, "x")
        fit(fresh(noise), source_of(noise), trainer.recipe)
        with monitored(None) as inner:
            trainer.train(noise, "x", watch=Plain)
    trainer.train(noise, "y", watch=Plain)
    assert counter.seen == []
    assert log == inner == {}


def test_blocks_nest_and_end_with_an_error_too():
    one, other = Counter(), Counter()
    assert current_monitor() is None
    with monitored(one):
        with pytest.raises(ZeroDivisionError), monitored(other):
            _ = 1 / (current_monitor() is one)
        assert current_monitor() is one
    assert current_monitor() is None


def test_being_watched_does_not_change_what_is_learned(tiny_trainer, noise):
    with monitored(Counter()):
        watched = tiny_trainer().train(noise, "x", watch=Plain)
    assert torch.equal(weights(watched), weights(tiny_trainer().train(noise, "x")))


# Out of reach.


def reachable(*roots: object) -> Iterator[object]:
    """Everything that can be got at from some objects, but for what the whole process shares: modules, classes, and
    the variables of modules that functions see."""
    seen: set[int] = set()
    left = list(roots)
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType | type):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, types.FunctionType):
            left += [thing.__defaults__, thing.__kwdefaults__, thing.__closure__, vars(thing)]
        elif not (isinstance(thing, dict) and "__builtins__" in thing):
            left += gc.get_referents(thing)


FORBIDDEN: list[object] = []
"""Objects that no method may reach."""

FOUND: list[tuple[str, object]] = []


def spy(who: str, *handed: object) -> None:
    """Looks for what is forbidden, and for tensors that share its memory."""
    memory = {thing.untyped_storage().data_ptr() for thing in FORBIDDEN if isinstance(thing, torch.Tensor)}
    for thing in reachable(*handed):
        is_same = any(thing is forbidden for forbidden in FORBIDDEN)
        if is_same or (isinstance(thing, torch.Tensor) and thing.untyped_storage().data_ptr() in memory):
            FOUND.append((who, thing))


EVERYTHING = frozenset(NEEDS) - {"truth"}


class SpyingStep(CrossEntropy):
    def __init__(self) -> None:
        super().__init__()

    def loss(self, predictor, batch, *beside):
        spy("step", self, predictor, batch)
        return super().loss(predictor, batch, *beside)


class SpyingDetector(Detector):
    summary = source = "test"
    needs = frozenset({"verified", "features", "attacked model"})

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        assert given.truth is None
        spy("detector", self, dataset, trainer, given)
        return Scored(torch.arange(float(len(dataset))))


class SpyingLabeler(Labeler):
    summary = source = "test"
    needs = frozenset({"suspects", "verified", "features", "attacked model"})

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> torch.Tensor:
        assert given.truth is None
        spy("labeler", self, dataset, trainer, given)
        return dataset.labels.roll(1)


class SpyingDefense(Defense):
    summary = source = "test"
    needs = EVERYTHING

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.truth is None
        spy("defense", self, dataset, trainer, given)
        trained = trainer.train(dataset, "x", step=SpyingStep(), watch=Plain)
        spy("defense", trained)
        return Defended(Plain(trained.predictor))


def test_no_method_reaches_the_monitor_the_test_set_or_the_truth(tiny_trainer):
    clean, test, verified = random_dataset(48, seed=1), random_dataset(32, seed=2), random_dataset(16, seed=3)
    poisoned = poison(clean, BadNets(), rate=0.2, target=0, seed=0)
    triggered = trigger_all(test, BadNets(), target=0, seed=0)
    monitor = AttackMonitor(test, triggered, 8)
    truth = poisoned.truth
    tensors = [test.images, test.labels, triggered.images, triggered.attack_labels, clean.images, clean.labels]
    tensors += [truth.true_labels, *marks(truth)]
    FORBIDDEN[:] = [monitor, test, triggered, truth, poisoned, clean, *tensors]
    FOUND.clear()
    with monitored(monitor):
        defended = defend(
            SpyingDefense(),
            poisoned.dataset,
            detector=SpyingDetector(),
            labeler=SpyingLabeler(),
            trainer=tiny_trainer(),
            verified=verified,
            encoder=SimCLR(epochs=1, batch_size=16),
            truth=truth,
        )
    assert FOUND == []
    assert current_monitor() is None
    spy("test", defended, [lambda: monitor])
    assert {who for who, _ in FOUND} == {"test"}, "the search finds what can be reached"
    FORBIDDEN.clear()
    FOUND.clear()
