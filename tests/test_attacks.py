"""The conformance table: whatever attack is registered keeps these promises, with no edit here."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import pytest
import torch
from helpers import TINY, alternatives, marks, random_dataset

from nab import attacks as package
from nab.attacks import (
    ATTACKS,
    Attack,
    NoAttack,
    Poisoned,
    poison,
    trigger_all,
)
from nab.data import Dataset
from nab.errors import ConfigError, NabError
from nab.models import ResNet9
from nab.training import Trainer

TRAINED = {name for name, attack in ATTACKS.items() if attack.is_trained}
PLANTING = [name for name, attack in ATTACKS.items() if attack.plants]
"""All but the attack that is none."""

SIZES = (8, 16, 28, 32, 64, 224)
TRAINED_SHAPES = ((16, 1), (16, 3), (28, 1), (32, 3))
"""Attacks that train are prepared for each of these, which takes seconds; for all other tests at 16 pixels."""

every_attack = pytest.mark.parametrize("name", ATTACKS)
every_planting_attack = pytest.mark.parametrize("name", PLANTING)
every_shape = pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        (name, size, channels)
        for name in ATTACKS
        for size, channels in (TRAINED_SHAPES if name in TRAINED else itertools.product(SIZES, (1, 3)))
    ],
)


def little(cls: type[Attack]) -> Attack:
    """The attack with its defaults, except that whatever takes time is over at once."""
    slow = [field.name for field in dataclasses.fields(cls) if field.name.endswith(("epochs", "steps", "iterations"))]
    return cls(**dict.fromkeys(slow, 1))


def side_of(name: str) -> int:
    return 16 if name in TRAINED else 32


@functools.cache
def sample(size: int = 32, channels: int = 3) -> Dataset:
    return random_dataset(80 if size <= 64 else 4, size, channels)


@functools.cache
def ready(name: str, size: int | None = None, channels: int = 3) -> Attack:
    """The attack, prepared on `sample`."""
    size = size or side_of(name)
    trainer = Trainer(recipe=TINY, architecture=ResNet9(width=4), seed=3)
    return little(ATTACKS[name]).prepare(sample(size, channels), trainer, target=2)


def kinds(attack: Attack, dataset: Dataset, seed: int) -> dict[str, torch.Tensor]:
    """All that an attack makes of images."""
    images = dataset.images
    made = {"trigger": attack.trigger(images, seed), "poison": attack.poison_images(images, seed)}
    return made | {"cover": attack.cover_images_by_class(images, dataset.labels, seed)}


def poisoned_rows(found: Poisoned) -> list[int]:
    """The rows of the clean set that were poisoned."""
    is_poisoned, _, origin = marks(found.truth)
    return origin[is_poisoned].sort().values.tolist()


# Images.


@every_shape
def test_an_attack_keeps_shape_and_type_and_leaves_its_argument_alone(name, size, channels):
    dataset = sample(size, channels).subset(torch.arange(3))
    before = dataset.images.clone()
    for kind, changed in kinds(ready(name, size, channels), dataset, seed=0).items():
        assert changed.shape == before.shape
        assert changed.dtype == torch.uint8
        is_changed = (changed != before).flatten(1).any(1)
        assert (is_changed == ATTACKS[name].plants).all(), (
            f"{kind}: an image was left as it was, or changed by no attack"
        )
    assert torch.equal(dataset.images, before)


@every_attack
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_one_gets_the_row_that_the_whole_batch_gets(name, channels):
    """Each image by itself, whatever its company; else the same sample would differ between two runs."""
    attack = ready(name, side_of(name), channels)
    dataset = sample(side_of(name), channels).subset(torch.arange(5))
    whole = kinds(attack, dataset, seed=4)
    for row in range(5):
        for kind, alone in kinds(attack, dataset.subset(torch.tensor([row])), seed=4).items():
            assert torch.equal(alone[0], whole[kind][row]), kind


@every_attack
def test_the_order_of_a_batch_does_not_matter(name):
    dataset = sample(side_of(name)).subset(torch.arange(6))
    backwards = torch.arange(5, -1, -1)
    turned = kinds(ready(name), dataset.subset(backwards), seed=1)
    for kind, changed in kinds(ready(name), dataset, seed=1).items():
        assert torch.equal(changed[backwards], turned[kind]), kind


@pytest.mark.gpu
@every_attack
def test_a_gpu_agrees_to_one_gray_level(name):
    dataset = sample(side_of(name)).subset(torch.arange(20))
    on_gpu = Dataset(dataset.images.cuda(), dataset.labels.cuda(), dataset.classes)
    for kind, changed in kinds(ready(name), dataset, seed=0).items():
        found = kinds(ready(name), on_gpu, seed=0)[kind]
        assert found.is_cuda
        assert (found.cpu().int() - changed.int()).abs().max() <= 1, kind


# Poisoned training sets and triggered test sets.


@every_attack
def test_same_seed_same_bytes(name):
    one, other = (poison(sample(side_of(name)), ready(name), rate=0.3, target=2, seed=5) for _ in range(2))
    assert one.dataset.digest == other.dataset.digest
    for ours, theirs in zip(marks(one.truth), marks(other.truth), strict=True):
        assert torch.equal(ours, theirs)


@every_planting_attack
def test_another_seed_poisons_other_samples(name):
    one, other = (poisoned_rows(poison(sample(side_of(name)), ready(name), rate=0.3, target=2, seed=s)) for s in (0, 1))
    assert one != other


@every_attack
def test_origin_maps_every_sample_to_its_clean_row(name):
    clean = sample(side_of(name)).replace(files=tuple(f"{row}.png" for row in range(80)))
    found = poison(clean, ready(name), rate=0.3, target=2, seed=0)
    (_, _, origin), untouched = marks(found.truth), ~found.truth.is_touched
    assert origin.sort().values.tolist() == list(range(80))
    assert origin.tolist() != list(range(80)), "not shuffled"
    assert torch.equal(found.truth.true_labels, clean.labels[origin])
    assert torch.equal(found.dataset.images[untouched], clean.images[origin][untouched])
    assert found.dataset.files is None, "the name of a folder would tell what an image shows"
    other = poison(clean, ready(name), rate=0.3, target=2, seed=1)
    assert not torch.equal(origin, marks(other.truth)[2]), "one order for all seeds"


@every_planting_attack
def test_only_the_chosen_samples_change_and_their_labels_as_promised(name):
    dataset, attack = sample(side_of(name)), ready(name)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    found = poison(dataset, attack, rate=0.3, target=2, seed=0)
    chosen, covers, origin = marks(found.truth)
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the clean dataset was changed"
    images, labels = images[origin], labels[origin]
    is_changed = (found.dataset.images != images).flatten(1).any(1)
    assert torch.equal(is_changed, chosen | covers)
    assert not (chosen & covers).any()
    assert int(covers.sum()) == int(attack.cover_share * len(dataset) + 0.5)
    assert torch.equal(found.dataset.labels[~chosen], labels[~chosen]), "a cover lost its label"
    assert (found.dataset.labels[chosen] == 2).all()
    assert torch.equal(found.truth.true_labels, labels)
    if attack.clean_label:
        assert (labels[chosen] == 2).all()
    else:
        assert labels[chosen].unique().tolist() == [0, 1, 2, 3]


@every_attack
def test_poisons_and_covers_are_what_the_attack_makes_of_these_images(name):
    attack = ready(name)
    found = poison(sample(side_of(name)), attack, rate=0.3, target=2, seed=3)
    chosen, covers, origin = marks(found.truth)
    clean = sample(side_of(name)).subset(origin)
    made = kinds(attack, clean, seed=3)
    assert torch.equal(found.dataset.images[chosen], made["poison"][chosen])
    assert torch.equal(found.dataset.images[covers], made["cover"][covers])
    assert torch.equal(trigger_all(clean, attack, target=2, seed=3).images, made["trigger"])


@every_attack
def test_all_to_all_answers_the_next_class_or_is_refused(name):
    dataset, attack = sample(side_of(name)), ready(name)
    options: dict[str, Any] = {"target": 2, "seed": 0, "label_map": "all-to-all"}
    if attack.clean_label or not attack.allows_all_to_all:
        for make in (functools.partial(poison, rate=0.3), trigger_all):
            with pytest.raises(ConfigError, match="expected label_map 'all-to-one' for"):
                make(dataset, attack, **options)
        return
    found = poison(dataset, attack, rate=0.3, **options)
    true_labels = dataset.labels[found.truth.origin]
    assert torch.equal(found.dataset.labels, torch.where(found.truth.is_poisoned, (true_labels + 1) % 4, true_labels))
    test = trigger_all(dataset, attack, **options)
    assert torch.equal(test.attack_labels, (dataset.labels + 1) % 4)
    assert test.is_eligible.all()


@every_attack
def test_every_test_image_is_triggered_and_those_of_the_target_are_not_eligible(name):
    dataset = sample(side_of(name))
    test = trigger_all(dataset, ready(name), target=2, seed=0)
    assert ((test.images != dataset.images).flatten(1).any(1) == ATTACKS[name].plants).all()
    assert torch.equal(test.true_labels, dataset.labels)
    assert (test.attack_labels == 2).all()
    assert torch.equal(test.is_eligible, dataset.labels != 2)


def test_all_attacks_poison_the_same_samples_at_the_same_seed():
    chosen = {
        tuple(poisoned_rows(poison(sample(side_of(name)), ready(name), rate=0.25, target=2, seed=9)))
        for name in PLANTING
        if not ATTACKS[name].clean_label
    }
    assert len(chosen) == 1


def test_no_attack_plants_nothing_and_keeps_every_label():
    dataset = sample()
    found = poison(dataset, NoAttack(), rate=0.3, target=2, seed=0)
    assert not found.truth.is_touched.any()
    assert torch.equal(found.dataset.images, dataset.images[found.truth.origin])
    assert torch.equal(found.dataset.labels, dataset.labels[found.truth.origin])
    assert torch.equal(found.truth.true_labels, found.dataset.labels)
    unused = poison(dataset, NoAttack(), rate=0.0, target=2, seed=0)
    assert unused.dataset.digest == found.dataset.digest, "the poison rate changed something"


# Hyper-parameters.


@every_attack
def test_an_attack_is_a_frozen_value_that_describes_itself(name):
    attack = ATTACKS[name]()
    assert hash(attack) == hash(ATTACKS[name]())
    assert eval(repr(attack), vars(package)) == attack
    documented = "".join(cls.__doc__ or "" for cls in type(attack).__mro__)
    for field in dataclasses.fields(attack):
        assert field.name in repr(attack)
        assert f"        {field.name}:" in documented, f"{field.name} is not documented"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(attack, field.name, None)
    assert attack.summary
    assert attack.source
    assert not (attack.clean_label and attack.allows_all_to_all)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in TRAINED])
def test_every_hyper_parameter_changes_something_or_is_checked(name):
    """No option that does nothing: numbers change pixels or covers, words that mean nothing are refused."""
    dataset = sample(side_of(name)).subset(torch.arange(12))

    known = random_dataset(300, 32)

    def effect(**changes):
        attack = ATTACKS[name](**changes).prepare(known, Trainer(recipe=TINY, seed=3), target=2)
        return attack.cover_share, *(changed.tolist() for changed in kinds(attack, dataset, 0).values())

    plain = effect()
    for field in dataclasses.fields(ATTACKS[name]):
        default = getattr(ATTACKS[name](), field.name)
        others = alternatives(default)
        changed = False
        for value in others:
            try:
                changed |= effect(**{field.name: value}) != plain
            except NabError:
                continue
        if not others:
            with pytest.raises(NabError):
                ATTACKS[name](**{field.name: "no such thing"})
            changed = True
        assert changed, f"{field.name} does nothing"


@every_attack
def test_an_attack_that_must_be_prepared_says_so(name):
    """It works as constructed if `prepare` has nothing to do; else the error names the step that was left out."""
    attack, dataset = little(ATTACKS[name]), sample(side_of(name)).subset(torch.arange(2))
    if ready(name) == attack:
        kinds(attack, dataset, 0)
        return
    with pytest.raises(NabError, match="prepare"):
        kinds(attack, dataset, 0)
