"""What the key of a single stage depends on, one part at a time, and that a kept network is the very same."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import BRIEF, TINY, counting_keeper, random_dataset

from nab.attacks import Triggered
from nab.data import IMAGENET, Normalization
from nab.defenses import Plain, Stamped
from nab.defenses.stamping import StampedTraining
from nab.defenses.supply import Supply
from nab.detection import LGA, find_scores
from nab.digest import digest
from nab.experiments import StageCache, make_config, runner
from nab.experiments.monitor import AttackMonitor
from nab.models import ResNet9, ResNet18
from nab.needs import Suspicion
from nab.pseudolabels import NC, VD, Labeler, guess_labels
from nab.stamp import Stamp
from nab.training import CrossEntropy, Output, Trainer, monitored

DATA = random_dataset(24, size=8)
OTHER = random_dataset(24, size=8, seed=1)
TRIGGERED = Triggered(OTHER.images, DATA.labels, DATA.labels * 0)
MASK = torch.arange(24) % 3 == 0
BASIC: dict[str, Any] = {"recipe": TINY, "architecture": ResNet9(width=4), "seed": 0}
TRAINERS = {
    "recipe": dataclasses.replace(TINY, flip=False),
    "precision": dataclasses.replace(TINY, precision="bfloat16"),
    "model": ResNet18(width=4),
    "width": ResNet9(width=5),
    "seed": 1,
}
"""Of a trainer, other parts."""

Ask = Callable[[Trainer], object]


class StopAsking(Exception):  # noqa: N818 - it is no error
    """Carries the key."""


def key_of(ask: Ask, part: str = "") -> str:
    """Of the first stage that is asked for; nothing is made."""

    def keeper(stage: str, inputs: Mapping[str, Any], make: object) -> Output:
        raise StopAsking(digest({"stage": stage, **inputs}))

    field = {"precision": "recipe", "model": "architecture", "width": "architecture"}.get(part, part)
    changed = {field: TRAINERS[part]} if part else {}
    with pytest.raises(StopAsking) as asked:
        ask(Trainer(**(BASIC | changed), keeper=keeper))
    return str(asked.value)


def training(dataset=DATA, purpose: str = "x", **options: Any) -> Ask:
    return lambda trainer: trainer.train(dataset, purpose, **options)


def scoring(dataset=DATA, detector=LGA(), verified=DATA) -> Ask:
    return lambda trainer: find_scores(detector, dataset, trainer, Supply(dataset, trainer, verified).give(detector))


def labeling(dataset=DATA, labeler: Labeler = VD(), verified=DATA, mask=MASK) -> Ask:
    suspicion = Suspicion(mask.float(), mask)

    def ask(trainer: Trainer) -> object:
        given = Supply(dataset, trainer, verified, BRIEF).give(labeler, suspicion)
        return guess_labels(labeler, dataset, trainer, given)

    return ask


def judging(test=DATA, seed: int = 0, shift: int = 0, attack: str = "badnets") -> Ask:
    triggered = Triggered(DATA.images + shift, DATA.labels, DATA.labels * 0)
    deployed = Plain(Trainer(**(BASIC | {"seed": seed})).fresh(DATA, "x"))
    return lambda trainer: runner._judge(deployed, test, triggered, make_config({"attack": attack}), trainer)


def stamping(mask=MASK, **stamp: Any) -> StampedTraining:
    return StampedTraining(Stamp(**stamp), mask, IMAGENET, torch.device("cpu"))


@pytest.mark.parametrize("part", TRAINERS)
@pytest.mark.parametrize(
    ("ask", "ignored"), [(training(), ""), (scoring(), "recipe"), (labeling(), "")], ids=["training", "LGA", "VD"]
)
def test_networks_scores_and_labels_depend_on_every_part_of_the_trainer(ask, ignored, part):
    """LGA does not augment, so what the final network's recipe says of mirrored images does not matter to it."""
    assert key_of(ask) == key_of(ask)
    assert (key_of(ask, part) == key_of(ask)) == (part == ignored)


def test_only_who_needs_verified_data_depends_on_them():
    assert key_of(scoring(verified=OTHER)) == key_of(scoring())
    assert key_of(labeling(verified=OTHER)) != key_of(labeling())


def test_only_who_needs_suspects_depends_on_them():
    assert key_of(labeling(mask=~MASK)) == key_of(labeling())
    trainer = Trainer(**BASIC)
    keeper, made = counting_keeper()
    for mask in (MASK, ~MASK, MASK):
        labeling(labeler=NC(), mask=mask)(dataclasses.replace(trainer, keeper=keeper))
    assert made.count("pseudo labels") == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (training(), training(OTHER)),
        (training(), training(DATA.replace(normalization=Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))))),
        (training(), training(purpose="y")),
        (training(), training(recipe=dataclasses.replace(TINY, lr=0.01))),
        (training(), training(beside={"more": OTHER})),
        (training(), training(start=Trainer(**BASIC).fresh(DATA, "x"))),
        (training(), training(step=stamping())),
        (training(step=stamping()), training(step=stamping(~MASK))),
        (training(step=stamping()), training(step=stamping(size=3))),
        (scoring(), scoring(OTHER)),
        (scoring(), scoring(detector=LGA(epochs=3))),
        (labeling(), labeling(OTHER)),
        (labeling(), labeling(labeler=VD(epochs=3))),
        (labeling(), labeling(labeler=VD(stamp=Stamp(size=3)))),
        (labeling(), labeling(labeler=VD(stamp=None))),
        (judging(), judging(OTHER)),
        (judging(), judging(seed=1)),
        (judging(), judging(shift=1)),
        (judging(), judging(attack="none")),
    ],
)
def test_another_argument_is_another_key(one, other):
    assert key_of(one) != key_of(other)


def test_what_is_watched_matters_where_there_is_a_monitor():
    """Outside of a monitored block, `watch` changes nothing."""
    watches = [Plain, functools.partial(Stamped, stamp=Stamp()), functools.partial(Stamped, stamp=Stamp(size=3))]
    assert {key_of(training(watch=watch)) for watch in watches} == {key_of(training())}
    with monitored(AttackMonitor(DATA, TRIGGERED, 4)):
        watched = [key_of(training(watch=watch)) for watch in [None, *watches]]
    with monitored(AttackMonitor(DATA, TRIGGERED, 5)):
        watched.append(key_of(training(watch=Plain)))
    assert watched[0] == key_of(training())
    assert len(set(watched)) == 5


# Networks.


class Mute(CrossEntropy):
    """Does not say what it depends on."""

    inputs = None


def test_what_a_step_without_inputs_trains_is_never_kept(noise):
    keeper, made = counting_keeper()
    trainer = Trainer(**BASIC, keeper=keeper)
    trainer.train(noise, "x", step=Mute())
    assert made == []
    assert list(trainer.ledger.seconds) == ["x"]


@pytest.mark.parametrize("width", [4, 16])
def test_a_kept_network_is_the_very_same_and_in_evaluation_mode(tmp_path, noise, width):
    cache = StageCache(tmp_path)
    basic = BASIC | {"architecture": ResNet9(width=width)}
    made, found = (Trainer(**basic, keeper=cache) for _ in range(2))
    first, second, plain = (trainer.train(noise, "x") for trainer in (made, found, Trainer(**basic)))
    assert [[cost.is_found for cost in trainer.ledger.costs.values()] for trainer in (made, found)] == [[False], [True]]
    for other in (second, plain):
        assert other.curve == first.curve
        assert not any(module.training for module in other.predictor.network.modules())
        assert torch.equal(other.predictor.logits(noise.images), first.predictor.logits(noise.images))
