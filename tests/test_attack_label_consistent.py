"""The label-consistent attack: the tiles cell by cell, the gradient's step by hand, and what the surrogate says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import TINY, counting_keeper, random_dataset
from torch.nn import functional as F

from nab.attacks.base import poison, trigger_all
from nab.attacks.label_consistent import LabelConsistent, corner_cells, projected_ascent
from nab.digest import describe, digest
from nab.errors import ConfigError, DataError, NabError
from nab.models import ResNet9
from nab.training import Trainer

ATTACK = LabelConsistent(steps=8, surrogate_epochs=4)


def trainer(**changes):
    return Trainer(recipe=TINY, architecture=ResNet9(width=4), **changes)


@pytest.fixture(scope="module")
def fitted(few_digits):
    return ATTACK.prepare(few_digits, trainer(), target=3)


# The tiles.


def test_three_by_three_tiles_have_16_white_and_20_black_cells_in_four_corners(fitted):
    gray = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    triggered = fitted.trigger(gray, seed=0)
    assert [int((triggered[0, channel] == 255).sum()) for channel in range(3)] == [16] * 3
    assert [int((triggered[0, channel] == 0).sum()) for channel in range(3)] == [20] * 3
    assert int((triggered == 100).sum()) == 2 * 3 * (32 * 32 - 36)
    right = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    left = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    assert triggered[0, 0, -3:, -3:].tolist() == triggered[0, 0, :3, -3:].tolist() == right
    assert triggered[0, 0, -3:, :3].tolist() == triggered[0, 0, :3, :3].tolist() == left


@pytest.mark.parametrize(("corners", "white", "black"), [("mirrored", 8, 8), ("repeated", 8, 8), ("single", 2, 2)])
def test_small_images_get_two_by_two_tiles(corners, white, black):
    cells = corner_cells(8, 8, corners)
    assert (int((cells == 1).sum()), int((cells == -1).sum())) == (white, black)
    assert cells[-2:, -2:].tolist() == [[-1, 1], [1, -1]]
    assert (
        cells[:2, :2].tolist()
        == {
            "mirrored": [[1, -1], [-1, 1]],
            "repeated": [[-1, 1], [1, -1]],
            "single": [[0, 0], [0, 0]],
        }[corners]
    )


def test_a_small_amplitude_adds_and_subtracts_and_clips(fitted):
    faint = dataclasses.replace(fitted, amplitude=0.2, corners="single")
    images = torch.full((1, 3, 32, 32), 230, dtype=torch.uint8)
    assert faint.trigger(images, 0)[0, 0, -3:, -3:].tolist() == [[179, 179, 255], [179, 255, 179], [255, 179, 255]]


# The perturbation.


def test_two_steps_on_a_linear_model_worked_by_hand():
    """Two pixels, two classes, logits (a - b, 0): the gradient for class 0 is negative in a and positive in b, so a
    falls and b rises, by 3 gray levels and then by 2, to the bound of 5; below 0 there is nothing."""
    images = torch.tensor([[100.0, 50.0], [4.0, 252.0]]).view(2, 1, 1, 2)

    def logits(pixels):
        first = (pixels[:, 0, 0, 0] - pixels[:, 0, 0, 1]) / 100
        return torch.stack([first, torch.zeros_like(first)], 1)

    def moved(steps):
        labels = torch.zeros(2, dtype=torch.long)
        found = projected_ascent(logits, images, labels, step=3, bound=5, steps=steps)
        return found.flatten(1).tolist()

    assert moved(1) == [[97, 53], [1, 255]]
    assert moved(2) == [[95, 55], [0, 255]]
    assert moved(9) == [[95, 55], [0, 255]]


def test_other_label_other_direction():
    images = torch.full((1, 1, 1, 1), 100.0)

    def logits(pixels):
        return F.pad(pixels.flatten(1) / 100, (0, 1))

    def moved(label):
        return projected_ascent(logits, images, torch.tensor([label]), step=2, bound=8, steps=1).item()

    assert (moved(0), moved(1)) == (98, 102)


@pytest.mark.parametrize("levels", [8, 20.5])
def test_the_change_stays_within_the_bound_and_makes_the_surrogate_doubt(fitted, few_digits, levels):
    images = few_digits.images[few_digits.labels == 3]
    attack = dataclasses.replace(fitted, epsilon=levels / 255, step=levels / 4 / 255)
    hard = attack.perturb(images)
    change = (hard.int() - images.int()).abs()
    assert levels // 1 <= change.max() <= levels + 0.5
    network, normalize = fitted.fitted.networks["surrogate"], fitted.fitted.normalization.apply
    labels = torch.full((len(images),), 3)
    before, after = (F.cross_entropy(network(normalize(part)), labels).item() for part in (images, hard))
    assert after > before + 0.1


def test_poisons_are_perturbed_and_test_images_are_not(fitted, few_digits):
    poisoned = poison(few_digits, fitted, rate=0.5, target=3, seed=0)
    chosen, clean = poisoned.truth.is_poisoned, few_digits.subset(poisoned.truth.origin)
    assert torch.equal(poisoned.dataset.labels, clean.labels), "a label was changed"
    assert clean.labels[chosen].unique().tolist() == [3]
    assert torch.equal(poisoned.dataset.images[chosen], fitted.poison_images(clean.images[chosen], 0))
    inner = (slice(None), slice(None), slice(3, -3))
    assert not torch.equal(poisoned.dataset.images[chosen][inner], clean.images[chosen][inner])
    triggered = trigger_all(few_digits, fitted, target=3, seed=0).images
    assert torch.equal(triggered[inner], few_digits.images[inner])
    with pytest.raises(ConfigError, match="all-to-one"):
        poison(few_digits, fitted, rate=0.5, target=3, seed=0, label_map="all-to-all")


def test_an_image_is_perturbed_as_if_it_were_alone(fitted, few_digits):
    images = few_digits.images[:60]
    whole = fitted.poison_images(images, 0)
    for rows in ([7], [55, 3]):
        assert torch.equal(fitted.poison_images(images[rows], 0), whole[rows])


# Preparation.


def test_same_seed_same_bytes_other_seed_other_surrogate(noise):
    one, again, other = (ATTACK.prepare(noise, trainer(seed=seed), target=3) for seed in (0, 0, 1))
    images = noise.images[noise.labels == 3]
    poisons = one.poison_images(images, 0)
    assert torch.equal(again.poison_images(images, 0), poisons)
    assert not torch.equal(other.poison_images(images, 0), poisons)
    assert digest(again.inputs) == digest(one.inputs) != digest(other.inputs)


def test_the_surrogate_is_a_kept_network_of_as_many_epochs(noise):
    (keeper, made), recipes = counting_keeper(), []

    def listening(stage, inputs, make):
        recipes.append(inputs["inputs"]["recipe"])
        return keeper(stage, inputs, make)

    one, other = (ATTACK.prepare(noise, trainer(keeper=listening), target=3) for _ in range(2))
    assert made == ["surrogate"], "trained twice"
    assert recipes == [describe(dataclasses.replace(TINY, epochs=4))] * 2
    assert torch.equal(one.perturb(noise.images[:4]), other.perturb(noise.images[:4]))


def test_an_attack_that_was_not_prepared_says_so():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for change in (ATTACK.trigger, ATTACK.poison_images, ATTACK.cover_images):
        with pytest.raises(NabError, match="prepare"):
            change(images, 0)


def test_a_fitted_attack_describes_itself_and_leaves_its_argument_alone(fitted, few_digits):
    assert fitted.hyper_parameters == ATTACK.hyper_parameters
    assert repr(fitted).startswith("FittedLabelConsistent(epsilon=")
    assert "Predictor" not in repr(fitted)
    images = few_digits.images[:3].clone()
    fitted.poison_images(images, 0)
    assert torch.equal(images, few_digits.images[:3])


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": 8}, {"step": 0}, {"steps": 0}, {"corners": "all"}, {"amplitude": 0}, {"surrogate_epochs": 0}],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LabelConsistent(**wrong)


def test_wrong_data_is_refused(fitted, few_digits):
    with pytest.raises(ConfigError, match="expected target from 0 to 9"):
        ATTACK.prepare(few_digits, trainer(), target=10)
    with pytest.raises(ConfigError, match="at least 4 pixels"):
        ATTACK.prepare(random_dataset(size=3), trainer(), target=0)
    with pytest.raises(DataError, match="expected uint8 images of 3 x 32 x 32"):
        fitted.trigger(few_digits.images[:1, :1], 0)
