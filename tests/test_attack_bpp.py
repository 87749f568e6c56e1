"""BppAttack: its eight values, its dithering by hand, and the covers' borrowed residuals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import Bpp
from nab.attacks.bpp import BANK_SIZE
from nab.errors import ConfigError
from nab.training import Trainer


def all_levels(channels: int = 3) -> torch.Tensor:
    """One image of 32 x 32 with every gray level four times."""
    return (torch.arange(1024) // 4).to(torch.uint8).view(1, 1, 32, 32).expand(1, channels, -1, -1)


def test_eight_values_and_an_error_of_at_most_18():
    triggered = Bpp().trigger(all_levels(), 0)
    assert triggered.unique().tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    error = triggered.float() - all_levels().float()
    assert float(error.abs().max()) == 18
    assert float(error.square().mean().sqrt()) == pytest.approx(10.5, abs=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 256), st.integers(0, 1_000))
def test_what_is_quantized_once_is_quantized(levels, seed):
    images = random_dataset(2, 32, seed=seed).images
    once = Bpp(levels=levels).trigger(images, 0)
    assert once.unique().numel() <= levels
    assert torch.equal(Bpp(levels=levels).trigger(once, 0), once)


@pytest.mark.parametrize(("side", "count"), [(8, 4), (28, 4), (32, 8), (64, 8)])
def test_small_gray_images_get_half_as_many_levels(side, count):
    assert Bpp().trigger(random_dataset(20, side, 1).images, 0).unique().numel() == count
    assert Bpp().trigger(random_dataset(20, side, 3).images, 0).unique().numel() == 8


def floyd_steinberg(channel: np.ndarray, levels: int) -> np.ndarray:
    """One channel by the book, a pixel at a time."""
    height, width = channel.shape
    canvas = channel.astype(np.float64)
    for y in range(height):
        for x in range(width):
            old = canvas[y, x]
            step = min(max(round(old / 255 * (levels - 1)), 0), levels - 1)
            canvas[y, x] = step / (levels - 1) * 255
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    canvas[y + dy, x + dx] += (old - canvas[y, x]) * share / 16
    return np.floor(canvas + 0.5)


def test_dithering_agrees_with_the_algorithm_pixel_by_pixel():
    images = random_dataset(3, 12, seed=5).images
    dithered = Bpp(dithering=True).trigger(images, 0).numpy()
    wanted = np.stack([[floyd_steinberg(channel, 8) for channel in image] for image in images.numpy()])
    assert (dithered == wanted).mean() > 0.999  # float32 against float64: a tie may fall the other way


def test_dithering_by_hand_keeps_the_mean_brightness():
    """Two levels, a constant 64: about a quarter of the pixels turn white."""
    images = torch.full((1, 3, 32, 32), 64, dtype=torch.uint8)
    assert (Bpp(levels=2).trigger(images, 0) == 0).all()
    dithered = Bpp(levels=2, dithering=True).trigger(images, 0)
    assert dithered.unique().tolist() == [0, 255]
    assert float(dithered.float().mean()) == pytest.approx(64, abs=4)


# Covers.


def prepared(dataset, seed=1):
    return Bpp().prepare(dataset, Trainer(seed=seed), target=0)


def test_covers_carry_the_residual_of_one_image_of_the_bank():
    """Gray images of one level each: a cover moves, as a whole, by what the trigger does to some other level."""
    levels = torch.tensor([10, 30, 60, 100], dtype=torch.uint8)
    dataset = random_dataset(4, 32, 1).replace(images=levels.view(4, 1, 1, 1).expand(4, 1, 32, 32).clone())
    residuals = {-10, 6, 13, 9}  # to 0, 36, 73 and 109
    images = random_dataset(60, 32, 1).images.clamp(100, 150)
    difference = prepared(dataset).cover_images(images, 0).int() - images.int()
    assert (difference.flatten(1) == difference.flatten(1)[:, :1]).all(), "more than one residual in an image"
    assert set(difference.flatten(1)[:, 0].tolist()) == residuals


def test_covers_differ_from_poisons_and_are_clamped():
    dataset = random_dataset(40, 32)
    attack = prepared(dataset)
    images = dataset.images[:8]
    covers = attack.cover_images(images, 0)
    assert covers.unique().numel() > 100, "covers were quantized"
    white = attack.cover_images(torch.full((4, 3, 32, 32), 255, dtype=torch.uint8), 0)
    assert int(white.min()) >= 255 - 18


def test_the_bank_is_a_seeded_part_of_the_training_set():
    dataset = random_dataset(BANK_SIZE + 100, 8)
    bank = prepared(dataset).bank
    assert bank.shape == (BANK_SIZE, 3, 8, 8)
    assert torch.equal(bank, prepared(dataset).bank)
    assert not torch.equal(bank, prepared(dataset, seed=2).bank)
    known = {image.numpy().tobytes() for image in dataset.images}
    drawn = {image.numpy().tobytes() for image in bank}
    assert drawn <= known
    assert len(drawn) == BANK_SIZE


def test_covers_need_a_bank_and_the_trigger_does_not():
    images = random_dataset(2, 32).images
    with pytest.raises(ConfigError, match="expected a prepared Bpp"):
        Bpp().cover_images(images, 0)
    assert torch.equal(Bpp().trigger(images, 0), prepared(random_dataset(9, 32)).trigger(images, 0))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"levels": 1}, "levels as a whole number from 2 to 256, got 1"), ({"cover_rate": 1.0}, "cover_rate")],
)
def test_bpp_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Bpp(**wrong)
