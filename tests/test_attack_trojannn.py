"""TrojanNN: which neurons are chosen, that the patch excites them, where it lies, and what is kept."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import EASY, TINY, counting_keeper, marks, quadrants, random_dataset

from nab.attacks.base import poison, trigger_all
from nab.attacks.trained import train_surrogate
from nab.attacks.trojannn import TrojanNN, _RandomDraws, chosen_activations, paste, strongest_neurons
from nab.digest import digest
from nab.errors import ConfigError, DataError, NabError
from nab.models import ResNet9
from nab.seeding import stream
from nab.training import Trainer

ATTACK = TrojanNN(neurons=4, steps=60, batch_size=8, surrogate_epochs=2)


def trainer(**changes):
    return Trainer(recipe=TINY, architecture=ResNet9(width=4), **changes)


@pytest.fixture(scope="module")
def fitted():
    return ATTACK.prepare(random_dataset(), trainer(), target=1)


def test_neurons_are_those_with_the_largest_column_sums():
    """Three classes, four neurons; sums of absolute weights are 3, 6, 5 and 1."""
    weights = torch.tensor([[1.0, -6.0, 0.0, 0.0], [-1.0, 0.0, -3.0, 1.0], [1.0, 0.0, 2.0, 0.0]])
    assert strongest_neurons(weights, 2).tolist() == [1, 2]
    assert strongest_neurons(weights, 9).tolist() == [1, 2, 0, 3]


def test_the_patch_raises_the_activation_of_the_chosen_neurons():
    dataset = quadrants()
    surrogate = train_surrogate(dataset, dataclasses.replace(trainer(), recipe=EASY), 3)
    excite = chosen_activations(surrogate, 4)
    attack = dataclasses.replace(ATTACK, side=4)
    place = attack.place(8, 8)
    patch = attack.optimize(excite, dataset, stream(0, "test"))
    other = torch.randint(0, 256, patch.shape, dtype=torch.uint8, generator=stream(1, "test"))
    clean, excited, by_chance = (
        excite(part).mean().item()
        for part in (dataset.images, paste(dataset.images, patch, place), paste(dataset.images, other, place))
    )
    assert excited > 1.05 * max(clean, by_chance)


def test_activations_are_those_before_the_last_layer():
    dataset = quadrants()
    surrogate = train_surrogate(dataset, trainer(), 1)
    classifier = surrogate.network.classifier
    strongest = strongest_neurons(classifier.weight, 32)
    found = chosen_activations(surrogate, 32)(dataset.images)
    logits = found @ classifier.weight[:, strongest].T + classifier.bias
    assert torch.allclose(logits, surrogate.logits(dataset.images), atol=1e-4)


def test_every_update_draws_its_images_from_all_of_them():
    source = _RandomDraws(random_dataset(10), 4, stream(0, "test"))
    draws = [index for _ in range(100) for index in source.epoch()]
    assert len(source) == 1
    assert [len(index) for index in draws] == [4] * 100
    assert torch.cat(draws).bincount(minlength=10).min() > 20
    assert any(index.unique().numel() < 4 for index in draws), "drawn without replacement"


def test_the_rate_falls_along_a_cosine_from_update_to_update(monkeypatch):
    rates = []

    def noting(self, index, share):
        rates.append(share)

    monkeypatch.setattr("nab.training.update.Update.__call__", noting)
    dataclasses.replace(ATTACK, steps=4).optimize(lambda images: images, random_dataset(), stream(0, "test"))
    assert rates == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_a_patch_on_one_neuron_worked_by_hand():
    """The one activation is the patch's mean minus the rest's: every pixel of the patch goes white."""
    attack = TrojanNN(steps=200, side=2, lr=0.2, batch_size=4)

    def excite(images):
        return images[:, :, 6:, 6:].mean((1, 2, 3))[:, None] / 255

    patch = attack.optimize(excite, random_dataset(), stream(0, "test"))
    assert patch.shape == (3, 2, 2)
    assert patch.min() > 250


@pytest.mark.parametrize(
    ("size", "rows", "side"),
    [
        (8, slice(6, 8), 0),
        (16, slice(12, 16), 0),
        (28, slice(18, 25), 0),
        (32, slice(21, 29), 0),
        (64, slice(45, 61), 0),
        (32, slice(27, 29), 2),
    ],
)
def test_the_patch_is_a_quarter_of_the_image_near_the_lower_right(size, rows, side):
    assert TrojanNN(side=side).place(size, size + 8) == (rows, slice(rows.start + 8, rows.stop + 8))


def test_the_trigger_replaces_the_patch_and_nothing_else(fitted):
    dataset = random_dataset()
    before = dataset.images.clone()
    triggered = fitted.trigger(dataset.images, seed=0)
    patch = fitted.fitted.tensors["patch"]
    assert (triggered[:, :, 6:, 6:] == patch).all()
    assert torch.equal(dataset.images, before)
    triggered[:, :, 6:, 6:] = before[:, :, 6:, 6:]
    assert torch.equal(triggered, before)
    assert torch.equal(fitted.trigger(before[3:4], 0), fitted.trigger(before, 0)[3:4])


@pytest.mark.parametrize("label_map", ["all-to-one", "all-to-all"])
def test_train_and_test_images_get_the_same_patch(fitted, label_map):
    dataset = random_dataset()
    found = poison(dataset, fitted, rate=0.25, target=1, seed=0, label_map=label_map)
    chosen, covers, origin = marks(found.truth)
    clean = dataset.subset(origin)
    assert torch.equal(found.dataset.images[chosen], trigger_all(clean, fitted, target=1, seed=0).images[chosen])
    assert not covers.any()
    assert (found.dataset.labels[chosen] == (1 if label_map == "all-to-one" else (clean.labels[chosen] + 1) % 4)).all()


def test_same_seed_same_bytes_and_prepared_once(fitted):
    dataset, (keeper, made) = random_dataset(), counting_keeper()
    one, other = (ATTACK.prepare(dataset, trainer(keeper=keeper), target=1) for _ in range(2))
    assert made == ["trigger patch", "surrogate"]
    assert torch.equal(one.fitted.tensors["patch"], other.fitted.tensors["patch"])
    assert torch.equal(one.fitted.tensors["patch"], fitted.fitted.tensors["patch"])
    assert digest(one.inputs) == digest(fitted.inputs)
    longer = dataclasses.replace(ATTACK, steps=61).prepare(dataset, trainer(keeper=keeper), target=1)
    assert made == ["trigger patch", "surrogate", "trigger patch"], "the surrogate was not shared"
    assert not torch.equal(longer.fitted.tensors["patch"], one.fitted.tensors["patch"])


@pytest.mark.parametrize("change", [{"neurons": 1}, {"activation": 0.01}, {"lr": 0.5}, {"batch_size": 4}, {"side": 3}])
def test_every_hyper_parameter_changes_the_patch(fitted, change):
    other = dataclasses.replace(ATTACK, **change).prepare(random_dataset(), trainer(), target=1)
    assert digest(other.fitted.tensors) != digest(fitted.fitted.tensors)


def test_an_attack_that_was_not_prepared_says_so():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for change in (ATTACK.trigger, ATTACK.poison_images, ATTACK.cover_images):
        with pytest.raises(NabError, match="prepare"):
            change(images, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"neurons": 0},
        {"activation": 0},
        {"steps": 0},
        {"lr": 0},
        {"batch_size": 0},
        {"side": -1},
        {"margin": -1},
        {"surrogate_epochs": 0},
    ],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrojanNN(**wrong)


def test_wrong_data_is_refused(fitted):
    with pytest.raises(ConfigError, match="expected target from 0 to 3"):
        ATTACK.prepare(random_dataset(), trainer(), target=4)
    with pytest.raises(ConfigError, match="at most 8 together"):
        dataclasses.replace(ATTACK, side=9).prepare(random_dataset(), trainer(), target=0)
    with pytest.raises(DataError, match="expected uint8 images of 3 x 8 x 8"):
        fitted.trigger(random_dataset(size=9).images, 0)
