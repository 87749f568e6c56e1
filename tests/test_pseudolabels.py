"""Labellers: the conformance table, VD and the oracle."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import EASY, quadrants, random_dataset, small, truth_of

from nab import pseudolabels as package
from nab.errors import ConfigError
from nab.pseudolabels import LABELERS, VD, OracleLabeler
from nab.pseudolabels.base import trusted
from nab.stamp import Stamp
from nab.training import Context, Recipe

every_labeler = pytest.mark.parametrize("name", sorted(LABELERS))


def first(count: int, length: int) -> torch.Tensor:
    """bool, ``length``; the first ``count`` are suspects."""
    return torch.arange(length) < count


# Whose labels are believed.


def test_neither_suspects_nor_the_share_of_the_highest_scores_are_trusted():
    """The three highest of ten scores are those of samples 9, 8 and 7; sample 0 is a suspect all the same."""
    dataset, scores = random_dataset(10, classes=2), torch.arange(10.0)
    left = trusted(dataset, first(1, 10), scores, 0.3)
    assert left.tolist() == [False] + 6 * [True] + 3 * [False]
    for less in ((scores, 0.0), (scores, 0.09), (None, 0.3)):
        assert torch.equal(trusted(dataset, first(1, 10), *less), ~first(1, 10))


def test_a_class_that_would_be_left_out_whole_keeps_all_but_its_suspects():
    dataset = random_dataset(6, classes=2).replace(labels=torch.tensor([0, 0, 0, 1, 1, 1]))
    left = trusted(dataset, first(1, 6), torch.arange(6.0), 0.5)
    assert left.tolist() == [False, True, True, True, True, True]
    assert trusted(dataset, first(3, 6), torch.arange(6.0), 0.34).tolist() == [False] * 3 + [True, False, False]


def test_what_can_never_be_suspected_is_trusted():
    scores = torch.full((10,), -torch.inf)
    scores[:2] = torch.tensor([2.0, 1.0])
    assert torch.equal(trusted(random_dataset(10), first(1, 10), scores, 0.9), ~first(2, 10))


# The conformance table.


@every_labeler
def test_every_sample_gets_a_class_the_same_one_twice(name, poisoned_digits, tiny_context):
    dataset = poisoned_digits.dataset
    images, labels = dataset.images.clone(), dataset.labels.clone()
    is_suspect = first(20, len(dataset))
    one, other = (
        small(LABELERS[name]).label(dataset, tiny_context(), is_suspect=is_suspect, stamp=Stamp()) for _ in range(2)
    )
    assert one.shape == (len(dataset),)
    assert one.dtype == torch.int64
    assert one.device.type == "cpu"
    assert 0 <= int(one.min()) <= int(one.max()) < dataset.num_classes
    assert torch.equal(one, other)
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"


@every_labeler
def test_what_a_labeler_needs_it_says(name, poisoned_digits, tiny_context):
    """An oracle needs the truth and nobody else reads it; who needs verified data asks for it."""
    dataset, labeler = poisoned_digits.dataset, small(LABELERS[name])
    is_suspect = first(20, len(dataset))

    def label(**changes):
        return labeler.label(dataset, tiny_context(**changes), is_suspect=is_suspect, stamp=Stamp())

    for needed, option, told in (
        (labeler.is_oracle, "truth", f"labeler '{name}' needs the ground truth"),
        (labeler.needs_verified, "verified", f"labeler '{name}' needs verified data"),
    ):
        if needed:
            with pytest.raises(ConfigError, match=told):
                label(**{option: None})
        else:
            assert torch.equal(label(**{option: None}), label())


@every_labeler
def test_a_labeler_is_a_frozen_value_that_describes_itself(name):
    labeler = LABELERS[name]()
    assert hash(labeler) == hash(LABELERS[name]())
    assert eval(repr(labeler), vars(package)) == labeler
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
    VD().label(noise, Context(recipe=base, verified=verified), is_suspect=first(3, 64), stamp=Stamp())
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
    assert call.hook is None, "the verified images carry no stamp"


@pytest.mark.parametrize(
    "change", [{"epochs": 3}, {"batch_size": 8}, {"lr": 0.2}, {"schedule": "constant"}, {"milestones": (1,)}], ids=str
)
def test_every_training_parameter_of_vd_reaches_the_trainer(fake_training, noise, change):
    VD(**change).label(noise, Context(verified=noise), is_suspect=first(3, 64), stamp=Stamp())
    (call,) = fake_training.calls
    for name, value in change.items():
        assert getattr(call.recipe, name) == value


@pytest.mark.parametrize(("when", "expected"), [(True, 1), (False, 0)])
def test_vd_labels_images_behind_the_stamp_unless_told_otherwise(fake_training, noise, when, expected):
    """The network answers 1 if the upper left pixel is the stamp's value, else 0."""
    fake_training.answer = lambda x: torch.nn.functional.one_hot((x[:, 0, 0, 0] == 5.0).long(), 4).float()
    labels = VD(stamp_when_labelling=when).label(
        noise, Context(verified=noise), is_suspect=first(3, 64), stamp=Stamp(value=5.0)
    )
    assert labels.tolist() == [expected] * 64


def test_vd_labels_stay_with_their_images(fake_training, noise):
    """The network answers by the brightness of a pixel that the stamp does not reach."""
    fake_training.answer = lambda x: torch.nn.functional.one_hot((x[:, 0, 5, 5] > 0).long() * 2, 4).float()
    labels = VD().label(noise, Context(verified=noise), is_suspect=first(3, 64), stamp=Stamp())
    expected = (noise.images[:, 0, 5, 5] / 255 > 0.485).long() * 2
    assert torch.equal(labels, expected)
    assert labels.unique().tolist() == [0, 2]


def test_vd_learns_from_the_verified_data():
    """A few checked images are enough to name the rest, whose labels are all wrong."""
    dataset = quadrants(80)
    verified, rest = dataset.subset(torch.arange(40)), dataset.subset(torch.arange(40, 80))
    context = Context(recipe=EASY, model="resnet9", width=4, verified=verified)
    labeler = VD(epochs=10, batch_size=16, lr=0.05, stamp_when_labelling=False)
    lied = rest.replace(labels=torch.zeros(40, dtype=torch.long))
    labels = labeler.label(lied, context, is_suspect=first(10, 40), stamp=Stamp())
    assert (labels == rest.labels).float().mean() > 0.9


# The oracle.


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.5, 1.0])
def test_the_oracles_dial_is_exact_on_suspects_and_on_the_others(accuracy):
    labels = [k % 4 for k in range(300)]
    is_suspect = first(100, 300)
    found = OracleLabeler(accuracy).label(
        random_dataset(300), Context(truth=truth_of(labels, [])), is_suspect=is_suspect, stamp=Stamp()
    )
    is_right = found == torch.tensor(labels)
    assert int(is_right[is_suspect].sum()) == round(accuracy * 100)
    assert int(is_right[~is_suspect].sum()) == round(accuracy * 200)


def test_the_oracle_leaves_the_truth_as_it_was():
    truth = truth_of([0, 1, 2, 3] * 5, [])
    OracleLabeler(0.0).label(random_dataset(20), Context(truth=truth), is_suspect=first(4, 20), stamp=Stamp())
    assert truth.true_labels.tolist() == [0, 1, 2, 3] * 5


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_oracle_cannot_be_right_more_than_always(accuracy):
    with pytest.raises(ConfigError, match=rf"accuracy in \[0, 1\], got {accuracy}"):
        OracleLabeler(accuracy)


@every_labeler
def test_scores_matter_to_those_that_say_so_alone(name, poisoned_digits, tiny_context):
    """And are part of what their labels are kept under."""
    dataset, labeler = poisoned_digits.dataset, small(LABELERS[name])
    if labeler.is_oracle:
        return
    seen: list[dict[str, object]] = []

    def keeper(stage, inputs, make):
        if stage == "pseudo labels":
            seen.append(dict(inputs))
        return make()

    scores = torch.arange(len(dataset)).float()
    context = tiny_context(scores=scores, keeper=keeper)
    package.guess_labels(labeler, dataset, context, is_suspect=first(20, len(dataset)), stamp=Stamp())
    assert ("scores" in seen[0]) == labeler.reads_scores
    assert not labeler.reads_scores or torch.equal(seen[0]["scores"], scores)
