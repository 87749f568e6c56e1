"""Fine-pruning: which channels go, when it stops, and that they stay away while the network trains on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nab.data import IDENTITY, Dataset
from nab.defenses import FinePruning, FineTune
from nab.defenses.repair.fine_pruning import PrunedTraining, prune
from nab.errors import ConfigError
from nab.models import Network
from nab.training import Predictor, Recipe, Runtime

CPU = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
CLASSES, CHANNELS, TRIGGER = 4, 8, 7


class Channels(nn.Module):
    """Eight channels, which are the first eight pixels: one for each of four classes, three that say little, and one
    that clean images leave dark and a trigger lights up, for class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(CHANNELS, CLASSES)
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.bias.zero_()
            self.classifier.weight[:, :CLASSES] = torch.eye(CLASSES)
            self.classifier.weight[0, TRIGGER] = 10.0

    @property
    def blocks(self) -> dict[str, nn.Module]:
        return {"pixels": nn.Identity()}

    def maps(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :, None, None]

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def clean_set(count: int = 40) -> Dataset:
    """Class k lights up channel k, class 3 the least; channels 4, 5 and 6 glow by 6, 4 and 2."""
    labels = torch.arange(count) % CLASSES
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 0, 4:7] = torch.tensor([6, 4, 2], dtype=torch.uint8)
    images[torch.arange(count), :, 0, labels] = (200 - 30 * labels).to(torch.uint8)[:, None]
    return Dataset(images, labels, tuple("abcd"), "channels", IDENTITY)


@pytest.fixture
def predictor() -> Predictor:
    network = Channels()
    assert isinstance(network, Network)
    return Predictor(network, IDENTITY, CPU, shape=(3, 8, 8))


def choose(predictor: Predictor, **changes) -> tuple[Tensor, list[dict[str, float]]]:
    dataset = clean_set()
    return FinePruning(step=1 / CHANNELS, **changes).choose(predictor, dataset.images, dataset)


def test_dormant_channels_go_and_those_of_the_classes_stay(predictor):
    is_pruned, rows = choose(predictor)
    assert is_pruned.nonzero().squeeze(1).tolist() == [4, 5, 6, TRIGGER]
    assert rows == [{"pruned": count, "accuracy": 100.0} for count in range(5)] + [{"pruned": 5, "accuracy": 75.0}]


def test_the_trigger_s_channel_is_the_first_that_goes(predictor):
    """With a step of one channel and no accuracy to lose after it."""
    dataset = clean_set()
    with torch.no_grad():
        predictor.network.classifier.weight[3, 6] = 100.0  # channel 6 is what class 3 is known by
        predictor.network.classifier.weight[:3, 6] = 0.0
        predictor.network.classifier.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -250.0]))
    assert (predictor.predict(dataset.images) == dataset.labels).all()
    is_pruned, _ = choose(predictor)
    assert is_pruned.nonzero().squeeze(1).tolist() == [TRIGGER]


def test_a_trigger_does_nothing_without_its_channel(predictor):
    dataset = clean_set()
    triggered = dataset.images.clone()
    triggered[:, :, 0, TRIGGER] = 255
    assert predictor.predict(triggered).tolist() == [0] * len(dataset)
    prune(predictor.network.classifier, choose(predictor)[0])
    assert torch.equal(predictor.predict(triggered), dataset.labels)
    assert torch.equal(predictor.network.state_dict()["classifier.weight"][:, 4:], torch.zeros(CLASSES, 4))


@pytest.mark.parametrize(("max_drop", "pruned"), [(0.0, 4), (0.24, 4), (0.26, 5), (0.6, 6), (0.9, 7)])
def test_more_goes_where_more_accuracy_may_be_lost_but_never_all(predictor, max_drop, pruned):
    """A class whose channel is gone is answered wrongly: 100, 75, 50 and 25 % are left. Class 3 goes first."""
    is_pruned, rows = choose(predictor, max_drop=max_drop)
    assert int(is_pruned.sum()) == pruned
    assert rows[pruned]["accuracy"] >= 100 * (1 - max_drop)
    assert len(rows) == CHANNELS or rows[-1]["accuracy"] < 100 * (1 - max_drop)


def test_choosing_leaves_the_network_as_it_is(predictor):
    before = {name: value.clone() for name, value in predictor.network.state_dict().items()}
    choose(predictor)
    assert all(torch.equal(value, before[name]) for name, value in predictor.network.state_dict().items())


@pytest.mark.parametrize(
    ("step", "channels", "counts"),
    [
        (0.01, 512, [0, 5, 10, 15, 20, 26]),
        (0.01, 20, [0, 1, 2, 3, 4, 5]),
        (0.3, 10, [0, 3, 6, 9]),
        (1.0, 10, [0]),
    ],
)
def test_steps_are_a_share_of_the_channels_and_one_at_least(step, channels, counts):
    found = FinePruning(step=step)._counts(channels)
    assert found[:6] == counts
    assert max(found) < channels


# Training on.


@pytest.fixture
def given(tiny_supply):
    return tiny_supply().give(FinePruning())


def test_pruned_channels_stay_pruned_while_the_rest_is_trained(tiny_trainer, given):
    """With momentum and weight decay."""
    trainer = tiny_trainer()
    start = given.attacked.predictor
    is_pruned = torch.arange(start.network.classifier.in_features) % 2 == 0
    prune(start.network.classifier, is_pruned)
    trained = trainer.train(
        given.verified,
        "test",
        recipe=FineTune(epochs=2, batch_size=16).recipe(trainer.recipe),
        step=PrunedTraining(is_pruned, trainer.device),
        start=start,
    )
    before, after = (each.network.classifier.weight for each in (start, trained.predictor))
    assert torch.equal(after[:, is_pruned], torch.zeros_like(after[:, is_pruned]))
    assert bool((after[:, ~is_pruned] != before[:, ~is_pruned]).all())


def test_digits_against_badnets(tiny_trainer, tiny_supply, monkeypatch):
    """The halves, the notes, the stages and the network that was handed over."""
    seen = []
    original = FinePruning.choose
    monkeypatch.setattr(
        FinePruning,
        "choose",
        lambda self, predictor, ranking, measuring: (
            seen.append((ranking, measuring)) or original(self, predictor, ranking, measuring)
        ),
    )
    supply = tiny_supply()
    given = supply.give(FinePruning())
    before = given.attacked.predictor.digest
    defended = FinePruning(epochs=2, batch_size=16, step=0.25, max_drop=0.5).defend(
        supply.dataset, tiny_trainer(), given
    )
    assert given.attacked.predictor.digest == before
    ranking, measuring = seen[0]
    halves = torch.cat([ranking, measuring.images]).flatten(1)
    assert sorted(halves.tolist()) == sorted(given.verified.images.flatten(1).tolist()), "no image has two uses"
    assert abs(len(ranking) - len(measuring)) <= 1
    is_dead = (defended.deployed.predictor.network.classifier.weight == 0).all(0)
    notes: Any = defended.notes
    rows = notes["pruning"]
    assert torch.equal(is_dead, notes["is_pruned"])
    kept = [row["pruned"] for row in rows if row["accuracy"] >= rows[0]["accuracy"] / 2]
    assert int(is_dead.sum()) == notes["pruned_count"] == kept[-1]
    assert list(defended.stages) == ["training", "fine-tuning"]
    assert defended.stages["training"] is given.attacked


def test_training_on_is_fine_tuning():
    base = Recipe(crop_padding=2, cutout=5)
    assert FinePruning(epochs=7).recipe(base) == FineTune(epochs=7).recipe(base)
    assert FinePruning.needs == FineTune.needs
    assert (FinePruning().max_drop, FinePruning().step) == (0.1, 0.01)


@pytest.mark.parametrize("wrong", [{"max_drop": 1.0}, {"max_drop": -0.1}, {"step": 0.0}, {"step": 1.5}, {"epochs": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        FinePruning(**wrong)
