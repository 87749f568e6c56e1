"""Labelers: the conformance table, VD and the oracle."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import EASY, quadrants, random_dataset, small, truth_of

from nab import pseudolabels as package
from nab.data import Dataset
from nab.defenses.supply import Supply
from nab.errors import ConfigError
from nab.methods import make
from nab.models import ResNet9
from nab.needs import NEEDS, Given, Suspicion
from nab.pseudolabels import LABELERS, VD, Labeler, OracleLabeler, guess_labels
from nab.pseudolabels.base import trusted
from nab.stamp import Stamp
from nab.training import Recipe, Trainer

every_labeler = pytest.mark.parametrize("name", sorted(LABELERS))


def first(count: int, length: int) -> torch.Tensor:
    """bool, ``length``; the first ``count`` are suspects."""
    return torch.arange(length) < count


def suspicion(count: int, length: int, scores: torch.Tensor | None = None) -> Suspicion:
    """The first ``count`` are suspects; without scores nobody stands out."""
    return Suspicion(torch.zeros(length) if scores is None else scores, first(count, length))


# Whose labels are believed.


def test_neither_suspects_nor_the_share_of_the_highest_scores_are_trusted():
    """The three highest of ten scores are those of samples 9, 8 and 7; sample 0 is a suspect all the same."""
    dataset, scores = random_dataset(10, classes=2), torch.arange(10.0)
    left = trusted(dataset, suspicion(1, 10, scores), 0.3)
    assert left.tolist() == [False] + 6 * [True] + 3 * [False]
    for rate in (0.0, 0.09):
        assert torch.equal(trusted(dataset, suspicion(1, 10, scores), rate), ~first(1, 10))


def test_a_class_that_would_be_left_out_whole_keeps_all_but_its_suspects():
    dataset = random_dataset(6, classes=2).replace(labels=torch.tensor([0, 0, 0, 1, 1, 1]))
    left = trusted(dataset, suspicion(1, 6, torch.arange(6.0)), 0.5)
    assert left.tolist() == [False, True, True, True, True, True]
    assert trusted(dataset, suspicion(3, 6, torch.arange(6.0)), 0.34).tolist() == [False] * 3 + [True, False, False]


def test_what_can_never_be_suspected_is_trusted():
    scores = torch.full((10,), -torch.inf)
    scores[:2] = torch.tensor([2.0, 1.0])
    assert torch.equal(trusted(random_dataset(10), suspicion(1, 10, scores), 0.9), ~first(2, 10))


# The conformance table.


@every_labeler
def test_every_sample_gets_a_class_the_same_one_twice(name, tiny_supply):
    labeler = small(LABELERS[name])
    dataset: Dataset = tiny_supply().dataset
    images, labels = dataset.images.clone(), dataset.labels.clone()
    found = []
    for _ in range(2):
        supply = tiny_supply()
        given = supply.give(labeler, suspicion(20, len(dataset)))
        found.append(labeler.label(dataset, supply.trainer, given))
    one, other = found
    assert one.shape == (len(dataset),)
    assert one.dtype == torch.int64
    assert one.device.type == "cpu"
    assert 0 <= int(one.min()) <= int(one.max()) < dataset.num_classes
    assert torch.equal(one, other)
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"


@every_labeler
def test_what_a_labeler_needs_it_says_and_is_enough(name, tiny_supply):
    """Without one of its needs it cannot be asked; without anything else it answers."""
    labeler = LABELERS[name]()
    assert labeler.needs <= NEEDS.keys()
    assert "pseudo labels" not in labeler.needs
    missing = {"truth": {"truth": None}, "verified": {"verified": None}}
    for need, change in missing.items():
        supply: Supply = tiny_supply(**change)
        if need in labeler.needs:
            with pytest.raises(ConfigError, match=f"{type(labeler).__name__} needs .*{need}"):
                supply.check(labeler)
        else:
            supply.check(labeler)


@pytest.mark.parametrize("name", sorted(name for name, labeler in LABELERS.items() if "truth" not in labeler.needs))
def test_the_truth_plays_no_part(name, tiny_supply):
    labeler = small(LABELERS[name])
    found = []
    for truth in (tiny_supply().truth, None):
        supply = tiny_supply(truth=truth)
        given = supply.give(labeler, suspicion(20, len(supply.dataset)))
        assert given.truth is None
        found.append(guess_labels(labeler, supply.dataset, supply.trainer, given))
    assert torch.equal(*found)


def kept_key(labeler: Labeler, supply: Supply, found: Suspicion) -> str:
    """The key of the stage."""
    before = set(supply.trainer.ledger.costs)
    guess_labels(labeler, supply.dataset, supply.trainer, supply.give(labeler, found))
    (key,) = (key for key, cost in supply.trainer.ledger.costs.items() if cost.stage == "pseudo labels")
    assert key not in before
    return key


@every_labeler
def test_suspects_matter_to_those_that_need_them_alone(name, tiny_supply):
    """And are part of what their labels are kept under."""
    labeler = small(LABELERS[name])
    if "truth" in labeler.needs:
        return
    count = len(tiny_supply().dataset)
    ramp = torch.arange(float(count))
    one, others = suspicion(20, count, ramp), [suspicion(21, count, ramp), suspicion(20, count, -ramp)]
    keys = [kept_key(labeler, tiny_supply(), found) for found in (one, *others)]
    assert len(set(keys)) == (3 if "suspects" in labeler.needs else 1)


def test_an_oracle_is_never_kept(tiny_supply):
    supply = tiny_supply()
    given = supply.give(OracleLabeler(), suspicion(20, len(supply.dataset)))
    labels = guess_labels(OracleLabeler(), supply.dataset, supply.trainer, given)
    assert torch.equal(labels, supply.truth.true_labels)
    assert supply.trainer.ledger.costs == {}


@every_labeler
def test_a_labeler_is_a_frozen_value_that_describes_itself(name):
    labeler = LABELERS[name]()
    assert hash(labeler) == hash(LABELERS[name]())
    assert eval(repr(labeler), vars(package) | {"Stamp": Stamp}) == labeler
    for field in dataclasses.fields(labeler):
        assert field.name in repr(labeler)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(labeler, field.name, None)
    assert labeler.summary
    assert labeler.source


# VD.


def test_vd_trains_on_the_verified_data_alone_as_the_authors_do(fake_training, noise):
    """100 epochs, batches of 64, SGD 0.01 divided by ten at 20 and 60; the final network's augmentation."""
    verified = random_dataset(12, seed=1)
    base = Recipe(crop_padding=2, flip=False, cutout=5, nesterov=True, label_smoothing=0.1, weight_decay=0.1)
    VD().label(noise, Trainer(base), Given(verified=verified))
    (call,) = fake_training.calls
    assert call.dataset is verified
    recipe = call.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.schedule, recipe.milestones) == (
        100,
        64,
        0.01,
        "steps",
        (20, 60),
    )
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.label_smoothing) == (0.9, False, 1e-4, 0.0)
    assert (recipe.crop_padding, recipe.flip, recipe.cutout) == (2, False, 5)
    assert call.step is None, "the verified images carry no stamp"
    assert call.start is None


@pytest.mark.parametrize(
    "change", [{"epochs": 3}, {"batch_size": 8}, {"lr": 0.2}, {"schedule": "constant"}, {"milestones": (1,)}], ids=str
)
def test_every_training_parameter_of_vd_reaches_the_trainer(fake_training, noise, change):
    VD(**change).label(noise, Trainer(), Given(verified=noise))
    (call,) = fake_training.calls
    for name, value in change.items():
        assert getattr(call.recipe, name) == value


@pytest.mark.parametrize(("stamp", "expected"), [(Stamp(value=5.0), 1), (Stamp(value=4.0), 0), (None, 0)])
def test_vd_labels_images_behind_its_stamp(fake_training, noise, stamp, expected):
    """The network answers 1 if the upper left pixel is 5, else 0."""
    fake_training.answer = lambda x: torch.nn.functional.one_hot((x[:, 0, 0, 0] == 5.0).long(), 4).float()
    labels = VD(stamp=stamp).label(noise, Trainer(), Given(verified=noise))
    assert labels.tolist() == [expected] * 64


def test_vd_has_the_papers_stamp_and_takes_another_one_by_name():
    assert VD().stamp == Stamp()
    assert make("labeler", "vd", {"stamp": {"size": 3}}).stamp == Stamp(size=3)
    assert make("labeler", "vd", {"stamp": None}).stamp is None


def test_vd_labels_stay_with_their_images(fake_training, noise):
    """The network answers by the brightness of a pixel that the stamp does not reach."""
    fake_training.answer = lambda x: torch.nn.functional.one_hot((x[:, 0, 5, 5] > 0).long() * 2, 4).float()
    labels = VD().label(noise, Trainer(), Given(verified=noise))
    expected = (noise.images[:, 0, 5, 5] / 255 > 0.485).long() * 2
    assert torch.equal(labels, expected)
    assert labels.unique().tolist() == [0, 2]


def test_vd_learns_from_the_verified_data():
    """A few checked images are enough to name the rest, whose labels are all wrong."""
    dataset = quadrants(80)
    verified, rest = dataset.subset(torch.arange(40)), dataset.subset(torch.arange(40, 80))
    labeler = VD(epochs=10, batch_size=16, lr=0.05, stamp=None)
    lied = rest.replace(labels=torch.zeros(40, dtype=torch.long))
    labels = labeler.label(lied, Trainer(EASY, ResNet9(width=4)), Given(verified=verified))
    assert (labels == rest.labels).float().mean() > 0.9


# The oracle.


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.5, 1.0])
def test_the_oracles_dial_is_exact_on_suspects_and_on_the_others(accuracy):
    labels = [k % 4 for k in range(300)]
    is_suspect = first(100, 300)
    given = Given(suspicion=suspicion(100, 300), truth=truth_of(labels, []))
    found = OracleLabeler(accuracy).label(random_dataset(300), Trainer(), given)
    is_right = found == torch.tensor(labels)
    assert int(is_right[is_suspect].sum()) == round(accuracy * 100)
    assert int(is_right[~is_suspect].sum()) == round(accuracy * 200)


def test_the_oracle_leaves_the_truth_as_it_was():
    truth = truth_of([0, 1, 2, 3] * 5, [])
    OracleLabeler(0.0).label(random_dataset(20), Trainer(), Given(suspicion=suspicion(4, 20), truth=truth))
    assert truth.true_labels.tolist() == [0, 1, 2, 3] * 5


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_oracle_cannot_be_right_more_than_always(accuracy):
    with pytest.raises(ConfigError, match=rf"accuracy in \[0, 1\], got {accuracy}"):
        OracleLabeler(accuracy)
