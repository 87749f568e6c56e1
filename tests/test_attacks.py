"""Every registered attack keeps its promises; the two first ones are what their sources say, to the pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import alternatives, random_dataset
from PIL import Image

from nab import attacks as package
from nab.attacks import ATTACKS, BadNets, Blend, Triggered, poison, select_poisons, to_uint8, trigger_all
from nab.errors import ConfigError, DataError, NabError

every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))
every_size = pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 224])
grey_and_colour = pytest.mark.parametrize("channels", [1, 3])


# The conformance table: whatever is registered is tested, with no edit here.


@every_attack
@every_size
@grey_and_colour
def test_a_trigger_keeps_shape_and_type_and_leaves_its_argument_alone(name, size, channels):
    images = random_dataset(3, size, channels).images
    before = images.clone()
    triggered = ATTACKS[name]().trigger(images, seed=0)
    assert triggered.shape == images.shape
    assert triggered.dtype == torch.uint8
    assert torch.equal(images, before)
    assert (triggered != images).flatten(1).any(1).all(), "an image was left without trigger"


@every_attack
@grey_and_colour
def test_a_batch_of_one_gets_the_row_that_the_whole_batch_gets(name, channels):
    images = random_dataset(5, 32, channels).images
    attack = ATTACKS[name]()
    whole = attack.trigger(images, seed=4)
    for row in range(5):
        assert torch.equal(attack.trigger(images[row : row + 1], seed=4)[0], whole[row])


@every_attack
def test_same_seed_same_bytes(name):
    dataset = random_dataset(80, 32)
    one, other = (poison(dataset, ATTACKS[name](), rate=0.3, target=1, seed=5) for _ in range(2))
    assert one.dataset.fingerprint == other.dataset.fingerprint
    assert torch.equal(one.dataset.images, other.dataset.images)
    assert torch.equal(one.truth.is_poisoned, other.truth.is_poisoned)


@every_attack
def test_another_seed_poisons_other_samples(name):
    dataset = random_dataset(200, 8)
    one, other = (poison(dataset, ATTACKS[name](), rate=0.3, target=1, seed=seed).truth for seed in (0, 1))
    assert not torch.equal(one.is_poisoned, other.is_poisoned)


@every_attack
def test_only_the_chosen_samples_change_and_their_labels_as_promised(name):
    dataset = random_dataset(200, 32)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    attack = ATTACKS[name]()
    found = poison(dataset, attack, rate=0.3, target=2, seed=0)
    chosen = found.truth.is_poisoned
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the clean dataset was changed"
    assert torch.equal(found.dataset.images[~chosen], images[~chosen])
    assert torch.equal(found.dataset.labels[~chosen], labels[~chosen])
    assert (found.dataset.images[chosen] != images[chosen]).flatten(1).any(1).all()
    assert (found.dataset.labels[chosen] == 2).all()
    assert torch.equal(found.truth.true_labels, labels)
    if attack.clean_label:
        assert (labels[chosen] == 2).all()
    else:
        assert labels[chosen].unique().tolist() == [0, 1, 2, 3]


@every_attack
def test_training_and_test_images_get_the_same_trigger(name):
    dataset = random_dataset(40, 32)
    attack = ATTACKS[name]()
    train = poison(dataset, attack, rate=0.5, target=0, seed=3)
    test = trigger_all(dataset, attack, target=0, seed=3)
    chosen = train.truth.is_poisoned
    assert torch.equal(train.dataset.images[chosen], test.images[chosen])


@every_attack
def test_every_test_image_is_triggered_and_those_of_the_target_are_not_eligible(name):
    dataset = random_dataset(40, 32)
    test = trigger_all(dataset, ATTACKS[name](), target=3, seed=0)
    assert (test.images != dataset.images).flatten(1).any(1).all()
    assert torch.equal(test.true_labels, dataset.labels)
    assert (test.attack_labels == 3).all()
    assert torch.equal(test.is_eligible, dataset.labels != 3)


@every_attack
def test_an_attack_is_a_frozen_value_that_describes_itself(name):
    attack = ATTACKS[name]()
    assert hash(attack) == hash(ATTACKS[name]())
    assert eval(repr(attack), vars(package)) == attack
    for field in dataclasses.fields(attack):
        assert field.name in repr(attack)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(attack, field.name, None)
    assert attack.summary
    assert attack.source


@every_attack
def test_every_hyper_parameter_changes_the_trigger_or_is_checked(name):
    """No option that does nothing: numbers change pixels, words that mean nothing are refused."""
    images = random_dataset(2, 32).images
    plain = ATTACKS[name]().trigger(images, 0)
    for field in dataclasses.fields(ATTACKS[name]):
        default = getattr(ATTACKS[name](), field.name)
        changed = False
        for value in alternatives(default):
            try:
                changed |= not torch.equal(ATTACKS[name](**{field.name: value}).trigger(images, 0), plain)
            except NabError:
                continue
        if not alternatives(default):
            with pytest.raises(NabError):
                ATTACKS[name](**{field.name: "no such thing"})
            changed = True
        assert changed, f"{field.name} does nothing"


# Selection.


def test_balanced_selection_takes_500_of_each_class_of_cifar10():
    labels = torch.arange(50_000) % 10
    chosen = select_poisons(labels, 0.1, 0, seed=0)
    assert labels[chosen].bincount().tolist() == [500] * 10


@pytest.mark.parametrize(("classes", "count", "eligible"), [(10, 10_000, 9_000), (200, 10_000, 9_950)])
def test_attacks_can_succeed_on_9000_images_of_cifar10_and_9950_of_tiny_imagenet(classes, count, eligible):
    labels = torch.arange(count) % classes
    test = Triggered(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), labels, torch.zeros_like(labels))
    assert int(test.is_eligible.sum()) == eligible


def test_uniform_selection_takes_the_rate_of_all_samples():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.123, 0, seed=0, selection="uniform")
    assert int(chosen.sum()) == 123
    assert labels[chosen].bincount(minlength=10).unique().numel() > 1, "not drawn at random"


def test_exclude_target_selection_leaves_the_target_class_alone():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.2, 7, seed=0, selection="exclude_target")
    assert int(chosen.sum()) == 200
    assert not (labels[chosen] == 7).any()


def test_clean_label_selection_takes_the_rate_of_the_target_class_alone():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.5, 4, seed=0, clean_label=True)
    assert labels[chosen].tolist() == [4] * 50


def test_all_attacks_poison_the_same_samples_at_the_same_seed():
    dataset = random_dataset(120, 32)
    masks = [
        tuple(poison(dataset, cls(), rate=0.25, target=0, seed=9).truth.is_poisoned.tolist())
        for cls in ATTACKS.values()
        if not cls.clean_label
    ]
    assert len(set(masks)) == 1


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ConfigError, match=r"poison_rate in \(0, 1\), got"):
        select_poisons(torch.arange(100) % 10, rate, 0, seed=0)


@pytest.mark.parametrize("selection", ["balanced", "uniform", "exclude_target"])
def test_a_rate_that_selects_nothing_is_refused(selection):
    with pytest.raises(ConfigError, match=r"0\.001"):
        select_poisons(torch.arange(100) % 10, 0.001, 0, seed=0, selection=selection)


def test_more_poison_than_there_are_candidates_is_refused():
    with pytest.raises(ConfigError, match=r"from 1 to 90 .*which selects 95"):
        select_poisons(torch.arange(100) % 10, 0.95, 0, seed=0, selection="exclude_target")


def test_an_unknown_selection_lists_the_known_ones():
    with pytest.raises(ConfigError, match="balanced, uniform, exclude_target, got 'some'"):
        select_poisons(torch.arange(100) % 10, 0.1, 0, seed=0, selection="some")


@pytest.mark.parametrize("target", [-1, 4, 1.0])
def test_a_target_that_is_no_class_is_refused(noise, target):
    for call in (
        lambda: poison(noise, BadNets(), rate=0.1, target=target, seed=0),
        lambda: trigger_all(noise, BadNets(), target=target, seed=0),
    ):
        with pytest.raises(ConfigError, match="expected target from 0 to 3"):
            call()


# BadNets, to the pixel.


def test_badnets_on_black_sets_12_numbers():
    triggered = BadNets().trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), seed=0)
    assert int((triggered != 0).sum()) == 12
    for channel in triggered[0]:
        assert channel.nonzero().tolist() == [[26, 28], [27, 27], [28, 26], [28, 28]]
    assert triggered.unique().tolist() == [0, 255]


def test_badnets_on_white_clears_15_numbers():
    triggered = BadNets().trigger(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), seed=0)
    assert int((triggered == 0).sum()) == 15
    for channel in triggered[0]:
        assert (channel == 0).nonzero().tolist() == [[26, 26], [26, 27], [27, 26], [27, 28], [28, 27]]


def test_badnets_square_is_white_and_the_checkerboard_is_one():
    black = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    square = BadNets("square").trigger(black, 0)[0, 0, 26:29, 26:29] // 255
    assert square.tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    checkers = BadNets("checkerboard").trigger(black, 0)[0, 0, 26:29, 26:29] // 255
    assert checkers.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_badnets_margin_is_the_distance_from_the_border():
    triggered = BadNets("square", margin=0).trigger(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), 0)
    assert triggered[0, 0, 29:, 29:].min() == 255
    assert int((triggered != 0).sum()) == 9


@pytest.mark.parametrize(("size", "cells"), [(8, 2), (16, 2), (17, 3), (28, 3), (224, 3)])
def test_badnets_patch_is_smaller_on_small_images_and_does_not_grow(size, cells):
    triggered = BadNets("square").trigger(torch.zeros(1, 1, size, size, dtype=torch.uint8), 0)
    assert int((triggered != 0).sum()) == cells**2


def test_badnets_refuses_a_margin_that_pushes_the_patch_out():
    with pytest.raises(ConfigError, match=r"margin of at most 29 .*got 30"):
        BadNets(margin=30).trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)
    with pytest.raises(ConfigError, match=r"margin.*got -1"):
        BadNets(margin=-1)


# Blend.


@pytest.fixture
def bright_picture(tmp_path):
    file = tmp_path / "bright.png"
    Image.fromarray(np.full((40, 50, 3), 200, dtype=np.uint8)).save(file)
    return file


@grey_and_colour
def test_blend_of_100_and_a_tenth_of_200_is_110(bright_picture, channels):
    images = torch.full((2, channels, 32, 32), 100, dtype=torch.uint8)
    attack = Blend(alpha=0.1, pattern="picture", picture=str(bright_picture))
    assert (attack.trigger(images, 0) == 110).all()


def test_blend_resizes_its_picture_without_regard_to_its_shape(tmp_path):
    half = np.zeros((10, 40, 3), dtype=np.uint8)
    half[:, 20:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    pattern = Blend(pattern="picture", picture=str(tmp_path / "half.png")).draw(3, 16, 16, 0)
    assert pattern.shape == (3, 16, 16)
    torch.testing.assert_close(pattern[:, :, :7], torch.zeros(3, 16, 7))
    torch.testing.assert_close(pattern[:, :, 9:], torch.full((3, 16, 7), 255.0))


@pytest.mark.parametrize("pattern", ["noise", "shapes"])
def test_blend_draws_one_pattern_per_seed(pattern):
    attack = Blend(pattern=pattern)
    assert torch.equal(attack.draw(3, 32, 32, 0), attack.draw(3, 32, 32, 0))
    assert not torch.equal(attack.draw(3, 32, 32, 0), attack.draw(3, 32, 32, 1))
    assert attack.draw(3, 32, 32, 0).min() >= 0
    assert attack.draw(3, 32, 32, 0).max() <= 255


def test_blend_noise_covers_the_whole_scale_evenly():
    """Uniform over 0 to 255: mean 127.5, standard deviation 73.9."""
    pattern = Blend().draw(3, 64, 64, 0)
    assert abs(float(pattern.mean()) - 127.5) < 3
    assert abs(float(pattern.std()) - 73.9) < 2
    assert pattern.unique().numel() == 256


def test_blend_of_alpha_1_is_the_pattern():
    attack = Blend(alpha=1)
    triggered = attack.trigger(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 2)
    assert torch.equal(triggered[0].float(), attack.draw(3, 16, 16, 2))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"alpha": 0}, r"alpha in \(0, 1\], got 0"),
        ({"alpha": 1.1}, "got 1.1"),
        ({"pattern": "kitty"}, "noise, shapes, picture, got 'kitty'"),
        ({"pattern": "picture"}, "path in picture"),
        ({"picture": "a.png"}, "path in picture"),
    ],
)
def test_blend_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(NabError, match=told):
        Blend(**wrong)


def test_blend_names_a_picture_that_is_missing_or_none(tmp_path):
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read"):
        Blend(pattern="picture", picture=str(tmp_path / "nowhere.png")).trigger(images, 0)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: not an image file"):
        Blend(pattern="picture", picture=str(tmp_path / "text.png")).trigger(images, 0)


def test_pixels_are_clamped_then_rounded_once():
    given = torch.tensor([-3.0, 0.4, 0.5, 254.4, 254.5, 300.0])
    assert to_uint8(given).tolist() == [0, 0, 1, 254, 255, 255]
