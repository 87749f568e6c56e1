"""The input-aware attack: its networks' sizes, its losses by hand, what a cover gets, and what is kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import TINY, counting_keeper, marks, quadrants, random_dataset

from nab.attacks.base import poison, trigger_all
from nab.attacks.generators import (
    distance,
    make_generator,
    to_mask,
    to_pattern,
)
from nab.attacks.input_aware import InputAware
from nab.attacks.input_aware_training import AccumulatingAdam, mask_recipe, mix, train_mask, train_pattern
from nab.attacks.trained import in_batches
from nab.digest import describe, digest
from nab.errors import ConfigError, DataError, NabError
from nab.models import ResNet9
from nab.seeding import stream
from nab.training import Batches, Trainer, freeze

ATTACK = InputAware(mask_epochs=2, generator_epochs=2, generator_width=4, batch_size=32)


def trainer(**changes):
    return Trainer(recipe=TINY, architecture=ResNet9(width=4), **changes)


@pytest.fixture(scope="module")
def dataset():
    return random_dataset(96, 32)


@pytest.fixture(scope="module")
def fitted(dataset):
    return ATTACK.prepare(dataset, trainer(), target=1)


# Training.


def bench(dataset):
    """A classifier, a mask and a pattern network, and batches of 16."""
    classifier = trainer().fresh(dataset, "test")
    networks = {name: make_generator((3, 8, 8), count, 16, 0, name) for name, count in [("mask", 1), ("pattern", 3)]}
    recipe = dataclasses.replace(TINY, batch_size=16)
    batches = Batches(dataset, recipe, torch.device("cpu"), stream(0, "test"))
    return classifier, networks["mask"], networks["pattern"], batches


def test_training_makes_masks_sparse_and_keeps_them_apart():
    dataset = quadrants(128)
    classifier, mask, _, batches = bench(dataset)
    train_mask(mask, classifier, batches, epochs=12, density=0.1)
    masks = to_mask(mask(dataset.normalization.apply(dataset.images)))
    assert not mask.training
    assert not any(weight.requires_grad for weight in mask.parameters())
    assert masks.mean() < 0.3
    assert distance(masks, masks.roll(1, 0)).mean() > 0.2


def test_the_rate_of_the_masks_falls_to_a_tenth_at_epochs_10_and_20_of_25():
    rates = [mask_recipe(25).learning_rate(epoch, 1) for epoch in range(25)]
    assert rates == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001] * 5)
    assert mask_recipe(1).learning_rate(0, 1) == 0.01


def test_training_makes_patterns_that_the_classifier_answers_with_the_target():
    dataset = quadrants(128)
    classifier, mask, pattern, batches = bench(dataset)
    train_mask(mask, classifier, batches, epochs=12, density=0.1)
    before = digest(mask.state_dict())
    settings: dict[str, Any] = {"target": 2, "share": 0.3, "diversity": 0.1, "lr": 0.02, "accumulates": False}
    train_pattern(pattern, mask, classifier, batches, epochs=50, **settings)
    assert digest(mask.state_dict()) == before, "the mask was trained too"
    for network in (pattern, classifier.network):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
    normalize = dataset.normalization.apply
    images = normalize(dataset.images[dataset.labels != 2])
    patterns, masks = normalize(255 * to_pattern(pattern(images))), to_mask(mask(images))

    def share_of_target(inputs):
        return (classifier.network(inputs).argmax(1) == 2).float().mean().item()

    own = share_of_target(mix(images, patterns, masks))
    foreign = share_of_target(mix(images, patterns.roll(1, 0), masks.roll(1, 0)))
    assert share_of_target(images) < 0.2 < 0.5 < own
    assert foreign < own - 0.2


def test_accumulating_gradients_trains_another_pattern_network():
    dataset = random_dataset(64)
    trained = []
    for accumulates in (False, True):
        classifier, mask, pattern, batches = bench(dataset)
        settings: dict[str, Any] = {"target": 2, "share": 0.3, "diversity": 1.0, "lr": 0.05, "accumulates": accumulates}
        freeze(mask)
        train_pattern(pattern, mask, classifier, batches, epochs=1, **settings)
        trained.append(digest(pattern.state_dict()))
    assert trained[0] != trained[1]


def test_accumulated_gradients_are_sums_and_others_are_not():
    """The slope is 1 twice: it adds up to 2 if nothing is set to zero."""
    slopes = []
    for optimizer in (torch.optim.Adam, AccumulatingAdam):
        weight = torch.nn.Parameter(torch.zeros(()))
        adam = optimizer([weight], lr=0.1)
        for _ in range(2):
            adam.zero_grad()
            (1.0 * weight).backward()
        assert weight.grad is not None
        slopes.append(weight.grad.item())
    assert slopes == [1, 2]


# The attack.


def test_the_trigger_is_the_image_s_own_pattern_through_its_own_mask(fitted, dataset):
    images = dataset.images[:6]
    masks, patterns = fitted.masks(images), 255 * fitted.patterns(images)
    assert masks.shape == (6, 1, 32, 32)
    assert (fitted.patterns(images).std(0) > 0).any(), "one pattern for all images"
    wanted = images + (patterns - images) * masks
    assert (fitted.trigger(images, 0) - wanted).abs().max() <= 0.501


def test_a_cover_gets_the_pattern_and_mask_of_another_image(fitted, dataset):
    images = dataset.images[:40]
    others = fitted.partners(images, seed=5)
    assert not (others == images).flatten(1).all(1).any()
    wanted = images + (255 * fitted.patterns(others) - images) * fitted.masks(others)
    covers = fitted.cover_images(images, 5)
    assert (covers - wanted).abs().max() <= 0.501
    assert (covers != fitted.trigger(images, 5)).flatten(1).any(1).all()
    assert torch.equal(fitted.cover_images(images[7:8], 5)[0], covers[7])
    assert not torch.equal(fitted.cover_images(images, 6), covers)


def test_an_image_of_the_bank_never_gets_its_own_trigger_as_a_cover():
    fitted = ATTACK.prepare(random_dataset(2), trainer(), target=0)
    bank = fitted.fitted.tensors["bank"]
    for seed in range(8):
        assert torch.equal(fitted.partners(bank, seed), bank.flip(0))


def test_poisons_covers_and_labels(fitted, dataset):
    found = poison(dataset, fitted, rate=0.25, target=1, seed=0)
    chosen, cover, origin = marks(found.truth)
    clean = dataset.subset(origin)
    assert int(cover.sum()) == 10
    assert not (chosen & cover).any()
    assert (found.dataset.labels[chosen] == 1).all()
    assert torch.equal(found.dataset.labels[~chosen], clean.labels[~chosen])
    assert torch.equal(found.dataset.images[cover], fitted.cover_images(clean.images[cover], 0))
    assert torch.equal(found.dataset.images[chosen], fitted.trigger(clean.images[chosen], 0))
    assert torch.equal(trigger_all(dataset, fitted, target=1, seed=0).images, fitted.trigger(dataset.images, 0))
    with pytest.raises(ConfigError, match="all-to-one"):
        poison(dataset, fitted, rate=0.25, target=1, seed=0, label_map="all-to-all")


def test_an_image_gets_the_trigger_that_it_would_get_alone(fitted, dataset):
    whole = fitted.trigger(dataset.images[:60], 0)
    for rows in ([7], [55, 3]):
        assert torch.equal(fitted.trigger(dataset.images[rows], 0), whole[rows])


def test_batches_are_filled_to_one_size():
    sizes = []

    def change(batch):
        sizes.append(len(batch))
        return batch + 1

    images = random_dataset(61).images // 2
    assert torch.equal(in_batches(change, images, torch.device("cpu")), images + 1)
    in_batches(change, images[:1], torch.device("cpu"))
    assert sizes == [50, 50, 50]


def test_same_seed_same_bytes_and_prepared_once():
    dataset, (keeper, made) = random_dataset(48), counting_keeper()
    one, other = (ATTACK.prepare(dataset, trainer(keeper=keeper), target=0) for _ in range(2))
    alone = ATTACK.prepare(dataset, trainer(), target=0)
    assert made == ["generators"]
    triggers = [attack.trigger(dataset.images, 0) for attack in (one, other, alone)]
    assert torch.equal(triggers[0], triggers[1])
    assert torch.equal(triggers[0], triggers[2])
    for attack, seed, target in ((dataclasses.replace(ATTACK, mask_epochs=1), 0, 0), (ATTACK, 1, 0), (ATTACK, 0, 1)):
        attack.prepare(dataset, trainer(keeper=keeper, seed=seed), target=target)
    assert made == ["generators"] * 4
    values = one.fitted.values
    assert set(values) == {"attack_success_rate", "cross_accuracy", "clean_accuracy", "mask_mean"}
    assert digest(one.inputs) == digest(alone.inputs)


def test_the_classifier_may_be_trained_before(dataset):
    stages = []

    def keeper(stage, inputs, make):
        stages.append((stage, inputs["inputs"]["recipe"]))
        return make()

    attack = dataclasses.replace(ATTACK, mask_epochs=1, generator_epochs=1, surrogate_epochs=3)
    attack.prepare(random_dataset(48), trainer(keeper=keeper), target=0)
    longer = dataclasses.replace(TINY, epochs=3)
    assert stages == [("generators", describe(TINY)), ("surrogate", describe(longer))]


def test_an_attack_that_was_not_prepared_says_so():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for change in (ATTACK.trigger, ATTACK.poison_images, ATTACK.cover_images):
        with pytest.raises(NabError, match="prepare"):
            change(images, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask_epochs": 0},
        {"generator_epochs": 0},
        {"generator_width": 0},
        {"density": 2},
        {"backdoor_share": 0.4},
        {"diversity": -1},
        {"classifier_lr": 0},
        {"batch_size": 0},
        {"surrogate_epochs": -1},
        {"cover_rate": 1},
    ],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        InputAware(**wrong)


def test_wrong_data_is_refused(fitted):
    with pytest.raises(ConfigError, match="expected target from 0 to 3"):
        ATTACK.prepare(random_dataset(), trainer(), target=4)
    with pytest.raises(DataError, match="at least two images"):
        ATTACK.prepare(random_dataset(1), trainer(), target=0)
    with pytest.raises(DataError, match="expected uint8 images of 3 x 32 x 32"):
        fitted.trigger(random_dataset(1).images, 0)
