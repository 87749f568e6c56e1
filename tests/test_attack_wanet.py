"""WaNet: how far its pixels move, where they come from, and what stays as it is."""

from __future__ import annotations

import pytest
import torch
from helpers import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import WaNet
from nab.errors import ConfigError


def shifts(attack: WaNet, side: int, seed: int) -> torch.Tensor:
    """By how many pixels each point moves, H x W x 2: the grid's units are half a side less one."""
    line = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return (attack.grid(side, side, seed) - torch.stack((columns, rows), dim=2)) * (side - 1) / 2


@pytest.mark.parametrize(("side", "wanted"), [(8, 0.24), (28, 0.28), (32, 0.28)])
def test_pixels_move_by_the_mean_distance_that_the_equation_gives(side, wanted):
    """Measured elsewhere for the same constants; mean over 200 fields."""
    distances = [shifts(WaNet(), side, seed).norm(dim=2).mean() for seed in range(200)]
    assert float(torch.stack(distances).mean()) == pytest.approx(wanted, abs=0.01)


def test_a_field_that_points_right_moves_pixels_right_by_the_equation(monkeypatch):
    """u is 1 along x, 0 along y; so mean |u| is 1 / 2 and G is 2: s G / H is 1 / 32 of a unit of 31 / 2 pixels."""
    field = torch.stack((torch.ones(4, 4), torch.zeros(4, 4)))[None]
    monkeypatch.setattr("nab.attacks.wanet._uniform", lambda generator, *shape: field)
    moved = shifts(WaNet(), 32, 0)[:, :-1]
    torch.testing.assert_close(moved[:, :, 0], torch.full((32, 31), 31 / 64))
    torch.testing.assert_close(moved[:, :, 1], torch.zeros(32, 31), atol=1e-5, rtol=0)


def test_on_images_of_64_pixels_the_warp_keeps_its_relative_strength():
    relative = [
        torch.stack([shifts(attack, side, seed).norm(dim=2).mean() / side for seed in range(50)]).mean()
        for attack, side in ((WaNet(), 32), (WaNet(), 64), (WaNet(strength=0.25), 64))
    ]
    assert float(relative[1] / relative[0]) == pytest.approx(1, abs=0.05)
    assert float(relative[2] / relative[0]) == pytest.approx(0.5, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 255), st.sampled_from([8, 28, 32]), st.integers(0, 1_000))
def test_a_constant_image_stays_as_it_is(level, side, seed):
    """A warp moves edges only. Covers too: points are kept inside the image, so no black comes in."""
    images = torch.full((1, 3, side, side), level, dtype=torch.uint8)
    assert torch.equal(WaNet().trigger(images, seed), images)
    assert torch.equal(WaNet().cover_images(images, seed), images)


def test_pixels_come_from_where_the_grid_says():
    """On a ramp, bilinear sampling gives the coordinate itself: brightness 8 x column moves by 8 x the shift."""
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(1, 1, 32, 32)
    moved = WaNet(strength=3.0).trigger(ramp, 5)[0, 0].float()
    wanted = (torch.arange(32) + shifts(WaNet(strength=3.0), 32, 5)[:, :, 0]) * 8
    assert float((moved - wanted).abs().max()) <= 0.51
    assert float((moved - ramp[0, 0]).abs().max()) > 8, "nothing moved"


def test_rows_move_by_the_other_channel():
    ramp = (torch.arange(32) * 8).to(torch.uint8).view(1, 1, 32, 1).expand(1, 1, 32, 32)
    moved = WaNet(strength=3.0).trigger(ramp, 5)[0, 0].float()
    wanted = (torch.arange(32)[:, None] + shifts(WaNet(strength=3.0), 32, 5)[:, :, 1]) * 8
    assert float((moved - wanted).abs().max()) <= 0.51


def test_each_cover_gets_noise_of_its_own_of_up_to_half_a_pixel():
    """On the same ramp with one pixel changed, so that the images differ: d / H in units of -1 to 1 is d / 2 pixels."""
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(2, 1, 32, 32).clone()
    ramp[1, 0, 0, 0] = 255
    warped, covers = WaNet().trigger(ramp, 0).float(), WaNet().cover_images(ramp, 0).float()
    noise = (covers - warped)[:, 0, 2:, 2:-2] / 8
    assert float(noise.abs().max()) <= 0.5 + 0.2
    assert float(noise.abs().mean()) == pytest.approx(0.25 * 31 / 32, abs=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_one_field_per_seed_and_the_same_for_training_and_test():
    images = random_dataset(4, 32).images
    assert torch.equal(WaNet().grid(32, 32, 7), WaNet().grid(32, 32, 7))
    assert not torch.equal(WaNet().grid(32, 32, 7), WaNet().grid(32, 32, 8))
    assert torch.equal(WaNet().poison_images(images, 7), WaNet().trigger(images, 7))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"grid_size": 1}, "grid_size to be a whole number of at least 2, got 1"),
        ({"strength": 0}, r"strength in \(0, 10\], got 0"),
        ({"cover_rate": 1}, r"cover_rate in \[0, 1\), got 1"),
    ],
)
def test_wanet_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        WaNet(**wrong)
