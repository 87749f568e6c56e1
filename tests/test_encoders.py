"""Encoders as stages and values: what their keys depend on, who shares them, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import BRIEF, TINY, counting_keeper, random_dataset

from nab import selfsupervised as package
from nab.data import Dataset, Normalization
from nab.defenses.supply import Supply
from nab.digest import digest
from nab.errors import ConfigError, NabError
from nab.methods import make
from nab.models import ResNet9, ResNet18
from nab.needs import Suspicion
from nab.pseudolabels import KNN, NC, guess_labels
from nab.selfsupervised import (
    ENCODERS,
    BarlowTwins,
    SelfSupervised,
    SimCLR,
    Views,
    check_features,
    find_features,
    train_encoder,
)
from nab.training import Output, Predictor, Trainer

every_encoder = pytest.mark.parametrize("name", sorted(ENCODERS))

SHORT = SimCLR(epochs=2, batch_size=16)
TRAINER = Trainer(TINY, ResNet9(width=4))


# The stage.


class Recorder:
    """Notes the key of every stage and makes it."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}

    def __call__(self, stage: str, inputs: Mapping[str, Any], make: Any) -> Output:
        self.keys[stage] = digest(inputs)
        return make()


def key(dataset: Dataset, trainer: Trainer = TRAINER, method: SelfSupervised = SHORT) -> str:
    recorder = Recorder()
    train_encoder(dataset, dataclasses.replace(trainer, keeper=recorder), method)
    assert set(recorder.keys) == {"encoder"}
    return recorder.keys["encoder"]


def test_an_encoder_depends_on_images_and_not_on_labels():
    dataset = random_dataset(16)
    assert key(dataset.replace(labels=dataset.labels.flip(0))) == key(dataset)
    assert key(dataset.replace(images=dataset.images.flip(0))) != key(dataset)
    assert key(dataset.replace(normalization=Normalization(mean=(0.5, 0.5, 0.5)))) != key(dataset)


@pytest.mark.parametrize(
    "method",
    [
        SimCLR(epochs=1, batch_size=16),
        SimCLR(epochs=2, batch_size=16, views=Views(blur_rate=0)),
        BarlowTwins(epochs=2, batch_size=16, dimensions=16),
    ],
)
def test_an_encoder_depends_on_its_method(method):
    dataset = random_dataset(16)
    assert key(dataset, method=method) != key(dataset)


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"seed": 1}, False),
        ({"architecture": ResNet9(width=5)}, False),
        ({"architecture": ResNet18(width=4)}, False),
        ({"recipe": dataclasses.replace(TINY, precision="bfloat16")}, False),
        ({"recipe": dataclasses.replace(TINY, lr=0.9, epochs=7, cutout=0)}, True),
    ],
    ids=str,
)
def test_an_encoder_depends_on_what_it_is_trained_with_and_on_nothing_else(change, is_same):
    dataset = random_dataset(16)
    assert (key(dataset, dataclasses.replace(TRAINER, **change)) == key(dataset)) == is_same


def test_two_labelers_share_one_encoder():
    keeper, made = counting_keeper()
    dataset = random_dataset(16)
    suspicion = Suspicion(torch.zeros(16), torch.arange(16) < 4)
    for labeler in (NC(), KNN(k=3), NC(center="median")):
        supply = Supply(dataset, dataclasses.replace(TRAINER, keeper=keeper), encoder=SHORT)
        guess_labels(labeler, dataset, supply.trainer, supply.give(labeler, suspicion))
    assert made.count("encoder") == 1
    assert made.count("pseudo labels") == 3


def test_a_kept_encoder_gives_the_very_same_features():
    keeper, made = counting_keeper()
    dataset, trainer = random_dataset(16), dataclasses.replace(TRAINER, keeper=keeper)

    def features(trainer: Trainer) -> torch.Tensor:
        return find_features(dataset, train_encoder(dataset, trainer, SHORT))

    one, other = (features(trainer) for _ in range(2))
    assert made == ["encoder"]
    assert one.shape == (16, 32)
    assert (one.dtype, one.device.type) == (torch.float32, "cpu")
    assert torch.equal(one, other)
    assert torch.equal(one, features(dataclasses.replace(TRAINER, keeper=Recorder()))), "as without a cache"


def test_an_observer_sees_every_epoch_of_an_encoder_and_leaves_no_trace_in_what_is_kept():
    keeper, _ = counting_keeper()
    kept: list[Output] = []

    def listening(stage: str, inputs: Mapping[str, Any], make: Any) -> Output:
        kept.append(keeper(stage, inputs, make))
        return kept[-1]

    dataset, trainer = random_dataset(16), dataclasses.replace(TRAINER, keeper=listening)
    losses: list[float] = []

    def observe(predictor: Predictor) -> dict[str, float]:
        losses.append(float(predictor.features(dataset.images).mean()))
        return {"mine": 1.0}

    watched = train_encoder(dataset, trainer, SHORT, observe)
    assert len(losses) == SHORT.epochs
    assert [set(row) for row in kept[0].values["curve"]] == [{"epoch", "loss", "lr"}] * len(losses)
    found = train_encoder(dataset, trainer, SHORT, observe)
    assert len(losses) == SHORT.epochs, "a found one has no epochs"
    plain = train_encoder(dataset, dataclasses.replace(TRAINER, keeper=Recorder()), SHORT)
    for other in (found, plain):
        assert torch.equal(watched.features(dataset.images), other.features(dataset.images))


def test_features_that_are_no_numbers_or_all_the_same_are_refused():
    features = torch.randn(5, 3)
    assert check_features(features) is features
    features[3, 1] = math.nan
    with pytest.raises(NabError, match=r"finite self-supervised features.*image 3.*lower learning rate"):
        check_features(features)
    with pytest.raises(NabError, match=r"all images are the same.*collapsed"):
        check_features(torch.ones(5, 3))


# The values.


@every_encoder
def test_an_encoder_is_a_frozen_value_that_describes_itself(name):
    kind: Any = ENCODERS[name]
    encoder = make("encoder", name)
    assert isinstance(encoder, SelfSupervised)
    assert hash(encoder) == hash(kind())
    assert eval(repr(encoder), vars(package)) == encoder
    assert encoder.summary
    assert encoder.source
    for field in dataclasses.fields(encoder):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(encoder, field.name, None)


def test_views_can_be_set_by_name():
    encoder = make("encoder", "simclr", {"views": {"blur_rate": 0}})
    assert encoder == SimCLR(views=Views(blur_rate=0))


@every_encoder
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"batch_size": 1}, "batch_size of at least 2"),
        ({"lr": 0}, "lr.*got 0"),
        ({"momentum": 1}, "momentum.*got 1"),
        ({"weight_decay": -1}, "weight_decay.*got -1"),
        ({"cosine_extra_epochs": -1}, "cosine_extra_epochs.*got -1"),
        ({"dimensions": 0}, "dimensions.*got 0"),
    ],
)
def test_encoders_refuse_what_they_cannot_train_with(name, wrong, told):
    with pytest.raises(ConfigError, match=told):
        make("encoder", name, wrong)


def test_the_losses_numbers_are_checked():
    with pytest.raises(ConfigError, match=r"temperature.*got 0"):
        SimCLR(temperature=0)
    with pytest.raises(ConfigError, match=r"redundancy.*got 0"):
        BarlowTwins(redundancy=0)


def test_a_brief_encoder_is_one_step():
    assert (BRIEF.epochs, BRIEF.batch_size) == (1, 128)
