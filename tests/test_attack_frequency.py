"""Triggers known by their spectrum, FTrojan, CTRL and the low-frequency one, against an independent transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn

from nab.attacks import CTRL, FTrojan, LowFrequency
from nab.attacks.patterns import cosine_waves
from nab.errors import ConfigError

RGB_TO_CR = np.array([0.5, -0.4187, -0.0813])
RGB_TO_CB = np.array([-0.1687, -0.3313, 0.5])
RGB_TO_U = np.array([-0.147, -0.289, 0.436])
RGB_TO_V = np.array([0.615, -0.515, -0.100])
"""ITU-R BT.601: from colors to channels, the other way round than in the code."""


def added(attack, side: int, channels: int = 3) -> np.ndarray:
    """What the trigger adds to a constant image of middle gray: C x H x W, whole numbers."""
    triggered = attack.trigger(torch.full((1, channels, side, side), 128, dtype=torch.uint8), 0)
    return (triggered[0].double() - 128).numpy()


# The two frequencies.


def test_the_waves_of_32_pixels_have_two_coefficients_and_the_root_mean_square_of_the_specification():
    waves = cosine_waves(32, 32, 30).double().numpy()
    spectrum = dctn(waves, norm="ortho")
    wanted = np.zeros((32, 32))
    wanted[15, 15] = wanted[31, 31] = 30
    np.testing.assert_allclose(spectrum, wanted, atol=1e-4)
    assert np.sqrt((waves**2).mean()) == pytest.approx(1.33, abs=0.01)
    assert np.abs(waves).max() == pytest.approx(3.2, abs=0.6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([8, 16, 28, 40]), st.sampled_from([8, 28, 33]), st.floats(1, 100))
def test_other_sizes_are_one_block_with_the_same_root_mean_square(height, width, magnitude):
    waves = cosine_waves(height, width, magnitude).double().numpy()
    spectrum = dctn(waves, norm="ortho")
    size = magnitude * np.sqrt(height * width) / 32
    assert spectrum[height // 2 - 1, width // 2 - 1] == pytest.approx(size, rel=1e-3)
    assert spectrum[-1, -1] == pytest.approx(size, rel=1e-3)
    assert (np.abs(spectrum) > 1e-3 * size).sum() == 2
    assert np.sqrt((waves**2).mean()) == pytest.approx(magnitude * np.sqrt(2) / 32, rel=1e-3)


def test_64_and_224_pixels_are_blocks_of_32():
    block = cosine_waves(32, 32, 30)
    assert torch.equal(cosine_waves(64, 64, 30), block.repeat(2, 2))
    assert torch.equal(cosine_waves(224, 224, 30)[96:128, 192:224], block)


@pytest.mark.parametrize(
    ("attack", "channels", "level"),
    [
        (FTrojan(), (RGB_TO_CR, RGB_TO_CB), 1.33),
        (FTrojan(magnitude=90.0), (RGB_TO_CR, RGB_TO_CB), 4.0),
        (CTRL(), (RGB_TO_U, RGB_TO_V), 4.42),
    ],
)
def test_both_color_channels_gain_the_two_frequencies_and_brightness_gains_none(attack, channels, level):
    """Up to rounding to whole gray levels, which is worth 0.3 of them in each color."""
    gained = added(attack, 32)
    for weights in channels:
        channel = np.tensordot(weights, gained, axes=1)
        spectrum = dctn(channel, norm="ortho")
        assert spectrum[15, 15] == pytest.approx(attack.magnitude, rel=0.12)
        assert spectrum[31, 31] == pytest.approx(attack.magnitude, rel=0.12)
        spectrum[15, 15] = spectrum[31, 31] = 0
        assert np.abs(spectrum).max() < 6, "another frequency is there"
        assert np.sqrt((channel**2).mean()) == pytest.approx(level, rel=0.12)
    brightness = np.tensordot([0.299, 0.587, 0.114], gained, axes=1)
    assert np.sqrt((brightness**2).mean()) < 0.4


@pytest.mark.parametrize(("attack", "magnitude"), [(FTrojan(), 90), (CTRL(), 100)])
def test_gray_images_gain_them_in_their_brightness(attack, magnitude):
    spectrum = dctn(added(attack, 32, 1)[0], norm="ortho")
    assert spectrum[15, 15] == pytest.approx(magnitude, rel=0.05)


@pytest.mark.parametrize("attack", [FTrojan(magnitude=2000.0), CTRL(magnitude=2000.0)])
def test_values_are_clamped_and_never_wrap_around(attack):
    black = attack.trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)[0]
    middle = added(attack, 32)
    assert (black[torch.from_numpy(middle < 0)] == 0).all(), "below black came out bright"


@pytest.mark.parametrize("attack", [FTrojan, CTRL])
def test_a_magnitude_of_nothing_is_refused(attack):
    with pytest.raises(ConfigError, match=r"magnitude in \(0, 2000\], got 0"):
        attack(magnitude=0)


# Low frequency.


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (224, 3)])
def test_the_smooth_pattern_spans_a_fifth_of_the_scale_and_stays_in_low_frequencies(side, channels):
    pattern = LowFrequency().draw(channels, side, side, 0)
    assert pattern.shape == (channels, side, side)
    assert float(pattern.min()) == 0
    assert float(pattern.max()) == pytest.approx(51, abs=1e-3)
    for channel in pattern.double().numpy():
        energy = dctn(channel - channel.mean(), norm="ortho") ** 2
        low = max(4, side // 4)
        assert energy[:low, :low].sum() > 0.98 * energy.sum()


def test_a_larger_sigma_is_smoother():
    steps = [LowFrequency(sigma=sigma).draw(1, 32, 32, 0).diff(dim=2).abs().mean() for sigma in (0.5, 2.0, 6.0)]
    assert steps[0] > 2 * steps[1] > 2 * steps[2]


def test_the_pattern_is_added_and_the_sum_clamped():
    attack, pattern = LowFrequency(), LowFrequency().draw(3, 32, 32, 4)
    dark = attack.trigger(torch.full((1, 3, 32, 32), 20, dtype=torch.uint8), 4)
    assert float((dark[0].float() - 20 - pattern).abs().max()) <= 0.501
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    assert torch.equal(attack.trigger(white, 4), white)


def test_one_smooth_pattern_per_seed():
    assert torch.equal(LowFrequency().draw(3, 32, 32, 0), LowFrequency().draw(3, 32, 32, 0))
    assert not torch.equal(LowFrequency().draw(3, 32, 32, 0), LowFrequency().draw(3, 32, 32, 1))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"amplitude": 0.2}, r"amplitude in \[5, 255\], got 0.2"), ({"sigma": 0}, r"sigma in \(0, 32\], got 0")],
)
def test_low_frequency_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        LowFrequency(**wrong)
