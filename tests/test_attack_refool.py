"""Refool: the mixture in linear light, by hand where scenes are constant, and the parts of a reflection."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from helpers import random_dataset

from nab.attacks import Refool
from nab.attacks.refool import _at, _bell, _blur, _ghosts
from nab.errors import ConfigError
from nab.training import Trainer


def constant(level: int, count: int = 40, side: int = 32):
    images = torch.full((count, 3, side, side), level, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.arange(count)[:, None]  # so that every image has draws of its own
    return random_dataset(count, side).replace(images=images)


def prepared(dataset, **changes):
    return Refool(**changes).prepare(dataset, Trainer(seed=1), target=0)


def test_a_ghost_of_a_constant_scene_is_the_mixture_in_linear_light():
    """Whatever the shift and the two shares, ``(0.4 B^2.2 + 0.6 (b R^2.2 + (1 - b) R^2.2))^(1 / 2.2)``."""
    bank = constant(200, 1).replace(images=torch.full((4, 3, 32, 32), 200, dtype=torch.uint8), labels=torch.arange(4))
    images = constant(100).images
    wanted = 255 * (0.4 * (100 / 255) ** 2.2 + 0.6 * (200 / 255) ** 2.2) ** (1 / 2.2)
    found = prepared(bank, ghost_rate=1.0).trigger(images, 0)[:, :, 8:, 8:].float()
    assert float((found - wanted).abs().max()) <= 0.51


def test_a_blurred_reflection_of_a_black_scene_leaves_the_darkened_image():
    bank = constant(0, 1).replace(images=torch.zeros(4, 3, 32, 32, dtype=torch.uint8), labels=torch.arange(4))
    found = prepared(bank, ghost_rate=0.0).trigger(constant(100).images, 0)[:, :, 8:, 8:].float()
    assert float((found - 100 * 0.4 ** (1 / 2.2)).abs().max()) <= 0.51


def test_a_blurred_reflection_is_brightest_in_the_middle_and_pulled_down_where_it_overflows():
    """White on white: B + R is 2 everywhere, so R loses 1.08 to 1.18 and nothing of it is left."""
    white = constant(0, 1).replace(images=torch.full((4, 3, 32, 32), 255, dtype=torch.uint8), labels=torch.arange(4))
    attack = prepared(white, ghost_rate=0.0)
    plain = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    assert float((attack.trigger(plain, 0).float() - 255 * 0.4 ** (1 / 2.2)).abs().max()) <= 0.51
    dark = attack.trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)[0, 0].float()
    assert float((dark[15:17, 15:17] - 255 * 0.8 ** (1 / 2.2)).abs().max()) <= 2, "the window's middle is 1 - a / 2"
    assert dark[0, 0] < dark[0, 16] < dark[16, 16]


def test_about_half_of_the_reflections_are_ghosts():
    images = random_dataset(400, 32).images
    dataset = random_dataset(30, 32, seed=1)
    mixed, ghosts = (prepared(dataset, ghost_rate=rate).trigger(images, 0) for rate in (0.49, 1.0))
    share = float((mixed == ghosts).flatten(1).all(1).float().mean())
    assert share == pytest.approx(0.49, abs=0.08)


def test_ghosts_are_two_copies_one_of_them_shifted():
    """Without resizing in the way: at the origin of the overlap lie the scene's (3, 5) and its (0, 0)."""
    scenes = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ghosts = _ghosts(scenes, torch.tensor([[3.0, 5.0]]), torch.tensor([0.3]))
    first = 0.3 * scenes[0, 0, 3, 5] + 0.7 * scenes[0, 0, 0, 0]
    last = 0.3 * scenes[0, 0, 31, 31] + 0.7 * scenes[0, 0, 28, 26]
    assert float(ghosts[0, 0, 0, 0]) == pytest.approx(float(first), abs=1e-5)
    assert float(ghosts[0, 0, -1, -1]) == pytest.approx(float(last), abs=1e-5)


def test_scenes_are_read_at_fractions_of_pixels():
    ramp = torch.arange(10.0).expand(1, 1, 10, 10)
    columns = torch.linspace(0.5, 8, 10)[None]
    found = _at(ramp, torch.arange(10.0)[None], columns)
    torch.testing.assert_close(found[0, 0], columns.expand(10, 10))


def test_each_scene_is_blurred_by_its_own_gaussian():
    """A point spreads to ``exp(-d^2 / 2 sigma^2)``, cut beyond 2 sigma, in proportion to a sum of 1."""
    points = torch.zeros(2, 1, 1, 31)
    points[:, :, :, 15] = 1
    blurred = _blur(points, torch.tensor([1.0, 2.5]))[:, 0, 0]
    for row, sigma in zip(blurred, (1.0, 2.5), strict=True):
        weights = [math.exp(-((d - 15) ** 2) / (2 * sigma**2)) * (abs(d - 15) <= 2 * sigma) for d in range(31)]
        torch.testing.assert_close(row, torch.tensor(weights) / sum(weights))


def test_blur_leaves_constant_scenes_alone_up_to_their_borders():
    flat = torch.full((1, 1, 4, 20), 0.7)
    torch.testing.assert_close(_blur(flat, torch.tensor([4.0])), flat)


def test_scenes_are_mirrored_at_their_borders_without_a_second_copy_of_the_border():
    """A point beside the border counts twice at the border: from its place and from its mirror image."""
    points = torch.zeros(1, 1, 1, 9)
    points[..., 1] = 1
    weights = [math.exp(-(d**2) / 2) for d in range(3)]
    total = weights[0] + 2 * weights[1] + 2 * weights[2]
    assert float(_blur(points, torch.tensor([1.0]))[0, 0, 0, 0]) == pytest.approx(2 * weights[1] / total, rel=1e-5)


def test_the_window_is_a_bell_of_height_1_over_bins_from_minus_3_11_to_3_11():
    """The source's bins for 32 pixels: 3 standard deviations and half of 7 / 32."""
    bell = _bell(32)
    assert float(bell.max()) == 1
    torch.testing.assert_close(bell, bell.flip(0))
    mass = statistics.NormalDist().cdf
    width = (6 + 7 / 32) / 32
    outer = mass(-3 - 7 / 64 + width) - mass(-3 - 7 / 64)
    assert float(bell[0]) == pytest.approx(math.sqrt(outer / (mass(width) - mass(0))), rel=1e-3)


def test_reflections_are_scenes_of_the_training_set_and_as_many_as_asked():
    dataset = random_dataset(50, 16)
    bank = prepared(dataset, reflections=20).bank
    assert bank.shape == (20, 3, 16, 16)
    known = {image.numpy().tobytes() for image in dataset.images}
    assert {image.numpy().tobytes() for image in bank} <= known
    assert len(prepared(dataset).bank) == 50


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ghost_rate": 1.1}, r"ghost_rate in \[0, 1\], got 1.1"),
        ({"alpha": 1}, r"alpha in \(0, 1\), got 1"),
        ({"reflections": 0}, "reflections to be a whole number of at least 1, got 0"),
    ],
)
def test_refool_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Refool(**wrong)


def test_refool_has_no_trigger_before_it_knows_its_scenes():
    with pytest.raises(ConfigError, match="expected a prepared Refool"):
        Refool().trigger(random_dataset(1, 32).images, 0)
