"""SIG: the sinusoid, column by column."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import SIG
from nab.errors import ConfigError

MIDDLE = 128


def stripes(attack: SIG, side: int, channels: int = 3) -> torch.Tensor:
    """What the trigger adds to a constant image: C x H x W."""
    return (attack.trigger(torch.full((1, channels, side, side), MIDDLE, dtype=torch.uint8), 0).float() - MIDDLE)[0]


def test_on_32_pixels_the_root_mean_square_is_40_over_the_root_of_2():
    added = stripes(SIG(), 32)
    assert float(added.square().mean().sqrt()) == pytest.approx(28.3, abs=0.3)


def test_columns_follow_the_equation():
    """``40 sin(2 pi 6 j / 32)``, rounded: the period is 32 / 6 columns, so column 16 is 0 again."""
    wanted = [math.floor(40 * math.sin(2 * math.pi * 6 * column / 32) + 0.5) for column in range(32)]
    assert wanted[:6] == [0, 37, 28, -15, -40, -15]
    added = stripes(SIG(), 32)
    assert (added == torch.tensor(wanted, dtype=torch.float)).all(), "rows or channels differ"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 255), st.sampled_from([8, 16, 28, 32]))
def test_the_first_column_stays_as_it_is(level, side):
    images = torch.full((1, 1, side, side), level, dtype=torch.uint8)
    assert (SIG().trigger(images, 0)[:, :, :, 0] == level).all()


@pytest.mark.parametrize(("side", "cycles"), [(8, 2), (16, 4), (28, 6), (32, 6), (64, 6), (224, 6)])
def test_stripes_per_image_do_not_alias_on_small_images(side, cycles):
    spectrum = torch.fft.rfft(stripes(SIG(), side, 1)[0, 0]).abs()
    assert int(spectrum.argmax()) == cycles


def test_at_test_time_the_stripes_may_be_stronger():
    attack = SIG(amplitude=20, test_amplitude=40)
    images = torch.full((1, 1, 32, 32), MIDDLE, dtype=torch.uint8)
    assert torch.equal(attack.poison_images(images, 0), SIG(amplitude=20).trigger(images, 0))
    assert torch.equal(attack.trigger(images, 0), SIG(amplitude=40).trigger(images, 0))


def test_dark_backgrounds_keep_the_upper_half_of_the_wave():
    triggered = SIG().trigger(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), 0)
    assert int(triggered.max()) in (39, 40)
    assert 0.4 < float((triggered > 0).float().mean()) < 0.6


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"amplitude": 0}, r"amplitude in \(0, 255\], got 0"),
        ({"frequency": 0}, "frequency to be a whole number of at least 1, got 0"),
        ({"test_amplitude": 300}, "test_amplitude .*got 300"),
    ],
)
def test_sig_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        SIG(**wrong)
