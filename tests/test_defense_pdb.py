"""PDB: the patch, the shift of labels and its inverse, what is trained on, and that both tasks are learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import EASY, TINY, FixedLogits, quadrants, random_dataset

import nab
from nab.data import IDENTITY, IMAGENET, Dataset
from nab.defenses import PDB, Patched
from nab.defenses.training.pdb import PATCH, shift_labels, unshift_logits
from nab.errors import ConfigError
from nab.methods import KINDS
from nab.models import ResNet9
from nab.needs import Given
from nab.stamp import Stamp
from nab.training import Batch, Predictor, Runtime, Trainer

CPU = Runtime(torch.device("cpu"), torch.float32, channels_last=False)


def patch(size: int, **changes: Any) -> Stamp:
    """The source's patch, of another size."""
    return dataclasses.replace(PATCH, size=size, **changes)


# The patch.


def test_the_source_patches_7_x_7_pixels_twice_as_bright_as_white():
    images = IMAGENET.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    patched = PATCH.on(IMAGENET)(images)
    for channel, (mean, std) in enumerate(zip(IMAGENET.mean, IMAGENET.std, strict=True)):
        level = (2 - mean) / std
        assert patched[:, channel, :7, :7].flatten().tolist() == pytest.approx([level] * 98)
    assert int((patched != images).sum()) == 2 * 3 * 49
    assert torch.equal(images, IMAGENET.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))), "the argument was changed"


def test_no_image_can_hold_the_patch():
    white = IMAGENET.apply(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    patched = PATCH.on(IMAGENET)(white)
    assert bool((patched[:, :, :7, :7] > white[:, :, :7, :7] + 4).all())


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("upper-left", slice(0, 2), slice(0, 2)),
        ("upper-right", slice(0, 2), slice(6, 8)),
        ("lower-left", slice(6, 8), slice(0, 2)),
        ("lower-right", slice(6, 8), slice(6, 8)),
    ],
)
def test_the_patch_fills_its_corner_of_chosen_images(corner, rows, columns):
    expected = torch.zeros(3, 1, 8, 8)
    expected[[0, 2], :, rows, columns] = 510.0
    where = torch.tensor([True, False, True])
    patched = patch(2, corner=corner).apply(torch.zeros(3, 1, 8, 8), where, normalization=IDENTITY)
    torch.testing.assert_close(patched, expected, rtol=1e-6, atol=0)


def test_a_setting_changes_what_it_names_and_leaves_the_rest_of_the_patch():
    """The patch's own value is not the default of a stamp."""
    made = KINDS["defense"].make("pdb", {"patch": {"size": 3}})
    assert made == PDB(patch=Stamp(size=3, value=2.0, space="pixel"))


def test_a_patch_that_does_not_fit_is_noticed_before_training(noise):
    with pytest.raises(ConfigError, match=r"at most half the image \(4 pixels\), got 7"):
        nab.defend(PDB(), noise, verified=noise)
    with pytest.raises(ConfigError, match="repeats"):
        PDB(repeats=0)


# Labels.


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_shifted_answers_shift_back(classes):
    labels = torch.arange(classes)
    shifted = shift_labels(labels, classes)
    assert shifted.tolist() == [*range(1, classes), 0]
    logits = torch.nn.functional.one_hot(shifted, classes).float()
    assert torch.equal(unshift_logits(logits).argmax(1), labels)


def test_shifting_back_reorders_all_logits():
    assert unshift_logits(torch.tensor([[0.0, 1.0, 2.0, 3.0]])).tolist() == [[1.0, 2.0, 3.0, 0.0]]


def test_what_is_deployed_patches_and_shifts_back():
    """The network answers 2 to patched images and 0 to others."""
    network = FixedLogits(lambda images: torch.nn.functional.one_hot(2 * (images[:, 0, 0, 0] > 500).long(), 4).float())
    deployed = Patched(Predictor(network, IDENTITY, CPU, shape=(3, 8, 8)), patch(2))
    answers = deployed.answer(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    assert answers.labels.tolist() == [1, 1, 1]
    assert answers.variants["unpatched"].tolist() == [0, 0, 0]
    assert answers.is_refused is None
    assert not deployed.respond(torch.zeros(1, 3, 8, 8), is_full=False).variants


# Training.


def test_an_epoch_is_the_untrusted_set_and_five_times_the_verified_one(fake_training, noise):
    verified = random_dataset(6, seed=5)
    trainer = Trainer(recipe=dataclasses.replace(TINY, label_smoothing=0.25))
    PDB(patch(2)).defend(noise, trainer, Given(verified=verified))
    (call,) = fake_training.calls
    assert len(call.dataset) == 64 + 5 * 6
    assert torch.equal(call.dataset.images[:64], noise.images)
    assert torch.equal(call.dataset.labels[:64], noise.labels)
    for part in range(5):
        place = slice(64 + 6 * part, 70 + 6 * part)
        assert torch.equal(call.dataset.images[place], verified.images)
        assert call.dataset.labels[place].tolist() == [1, 2, 3, 0, 1, 2]
    assert call.recipe is trainer.recipe
    assert call.step.label_smoothing == 0.25
    assert call.watch.func is Patched
    assert call.watch.keywords == {"patch": patch(2)}


def test_only_verified_images_are_patched_wherever_they_are_met(fake_training, noise):
    PDB(patch(2)).defend(noise, Trainer(recipe=TINY), Given(verified=random_dataset(6, seed=5)))
    step = fake_training.calls[0].step
    positions, images = torch.tensor([93, 0, 64, 63]), torch.zeros(4, 3, 8, 8)
    seen = step.images(Batch(images, torch.zeros(4, dtype=torch.int64), positions))
    assert [int((image != 0).sum()) for image in seen] == [12, 0, 12, 0]
    level = IMAGENET.level(2.0, 3, torch.device("cpu"))
    assert torch.equal(seen[0, :, :2, :2], level[0].expand(3, 2, 2))


@pytest.fixture(scope="module")
def defended() -> nab.defenses.Defended:
    """Quadrants that are easy to tell apart, 16 of them verified."""
    dataset = quadrants(96)
    trainer = Trainer(recipe=EASY, architecture=ResNet9(width=8))
    return nab.defend(PDB(patch(3)), dataset, verified=dataset.subset(torch.arange(16)), trainer=trainer)


@pytest.fixture(scope="module")
def fresh() -> Dataset:
    """Other images of the same four classes."""
    return quadrants(200).subset(torch.arange(96, 200))


def test_unpatched_images_keep_their_class_by_the_bare_network(defended, fresh):
    bare = defended.deployed.predictor.predict(fresh.images)
    assert (bare == fresh.labels).double().mean() > 0.95
    assert torch.equal(defended.deployed.answer(fresh.images).variants["unpatched"], bare)


def test_patched_images_get_the_shifted_class_by_the_bare_network(defended, fresh):
    change = patch(3).on(IMAGENET)
    bare = defended.deployed.predictor.predict(fresh.images, change=change)
    assert (bare == (fresh.labels + 1) % 4).double().mean() > 0.95


def test_what_is_deployed_answers_with_the_class_itself(defended, fresh):
    assert (defended.deployed.labels(fresh.images) == fresh.labels).double().mean() > 0.95
