"""Batches: order, augmentation and normalization, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_dataset

from nab.data import Dataset, Normalization
from nab.errors import ConfigError
from nab.seeding import stream
from nab.training import Batches, RawBatches, Recipe

CPU = torch.device("cpu")
PIXELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""From 0 to 1."""


def batches(dataset: Dataset, seed: int = 0, *, drop_last: bool = False, **changes) -> Batches:
    plain = Recipe(batch_size=16).without_augmentation()
    return Batches(dataset, dataclasses.replace(plain, **changes), CPU, stream(seed, "test"), drop_last=drop_last)


def of(images: torch.Tensor, normalization: Normalization = Normalization()) -> Dataset:
    """Images without a meaning."""
    return Dataset(images, torch.zeros(len(images), dtype=torch.long), ("a", "b"), normalization=normalization)


# Order.


def kinds(count: int, **options) -> list[Batches | RawBatches]:
    """One of each kind, of batches of 16."""
    dataset = random_dataset(count)
    raw = RawBatches(dataset.images, dataset.labels, 16, stream(0, "test"), **options)
    return [batches(dataset, **options), raw]


def test_every_sample_is_met_once_per_epoch_in_another_order():
    for supply in kinds(50):
        epochs = [torch.cat(list(supply.epoch())) for _ in range(2)]
        for seen in epochs:
            assert seen.sort().values.tolist() == list(range(50))
        assert not torch.equal(*epochs)


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [
        (48, False, [16, 16, 16]),
        (50, False, [16, 16, 16, 2]),
        (49, False, [16, 16, 16]),
        (5, False, [5]),
        (1, False, []),
        (48, True, [16, 16, 16]),
        (50, True, [16, 16, 16]),
        (5, True, [5]),
        (1, True, []),
    ],
)
def test_a_last_batch_is_kept_unless_it_is_one_sample_or_told_to_be_dropped(count, drop_last, sizes):
    for supply in kinds(count, drop_last=drop_last):
        for _ in range(2):
            assert [len(index) for index in supply.epoch()] == sizes
        assert len(supply) == len(sizes)


def test_the_same_generator_gives_the_same_batches():
    dataset = random_dataset(40)
    supplies = [Batches(dataset, Recipe(batch_size=16), CPU, stream(seed, "t")) for seed in (1, 1, 2)]
    one, other, third = (torch.cat([supply.augment(index) for index in supply.epoch()]) for supply in supplies)
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_rows_come_as_they_are_with_their_labels_and_positions():
    rows, labels = torch.randn(20, 3, generator=stream(0, "rows")), torch.arange(20)
    batch = RawBatches(rows, labels, 8, stream(0, "test")).batch(torch.tensor([7, 3]))
    assert torch.equal(batch.images, rows[[7, 3]])
    assert batch.labels.tolist() == batch.positions.tolist() == [7, 3]


# Images.


def test_images_come_normalized_with_their_labels_and_positions():
    dataset = random_dataset(40)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (Normalization().mean, Normalization().std))
    supply = batches(dataset)
    for index in supply.epoch():
        batch = supply.batch(index)
        torch.testing.assert_close(batch.images, (dataset.images[index] / 255 - mean) / std)
        assert torch.equal(batch.labels, dataset.labels[index])
        assert torch.equal(batch.positions, index)


def test_gray_images_are_normalized_with_the_average_over_the_channels():
    """Mean 0.3 and deviation 0.3."""
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    dataset = of(images, Normalization((0.1, 0.2, 0.6), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(batches(dataset).augment(torch.arange(2)).flatten(), torch.tensor([-1.0, 7 / 3]))


@pytest.mark.parametrize("padding", [5, 6])
def test_a_crop_cannot_reach_beyond_an_images_width(padding):
    dataset = random_dataset(4, size=5)
    if padding == 5:
        assert batches(dataset, crop_padding=padding).augment(torch.arange(4)).shape == (4, 3, 5, 5)
        return
    with pytest.raises(ConfigError, match="crop_padding of at most the image's 5 pixels, got 6"):
        batches(dataset, crop_padding=padding)


def test_flips_mirror_half_of_the_images_and_nothing_else():
    image = random_dataset(1).images
    seen = batches(of(image.repeat(400, 1, 1, 1)), flip=True, batch_size=400).augment(torch.arange(400))
    plain = Normalization().apply(image)
    is_plain = torch.isclose(seen, plain).flatten(1).all(1)
    is_mirrored = torch.isclose(seen, plain.flip(3)).flatten(1).all(1)
    assert torch.equal(is_plain, ~is_mirrored)
    assert 150 < int(is_mirrored.sum()) < 250


def test_crops_are_shifts_over_black_and_every_shift_occurs():
    """A single white pixel in the middle of 9 x 9 turns up at each of the 25 places within two pixels."""
    image = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    seen = batches(of(image.repeat(800, 1, 1, 1), PIXELS), crop_padding=2).augment(torch.arange(800))
    assert (seen.sum((1, 2, 3)) - 3).abs().max() < 1e-4, "one white pixel, the rest black"
    places = {tuple(place[2:]) for place in seen.round().nonzero().tolist()}
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


def test_cutout_holes_have_the_areas_of_the_authors(monkeypatch):
    """Length 3 cuts [c - 1, c + 1): of 1,024 centers on 32 x 32, 961 give 4 pixels, 62 give 2 and one gives 1."""
    made = batches(of(torch.full((1024, 1, 32, 32), 255, dtype=torch.uint8)), cutout=Recipe().cutout)
    centers = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    draws = iter(centers.T[:, :, None])
    monkeypatch.setattr(made, "_integers", lambda below, shape: next(draws))
    areas = (made.augment(torch.arange(1024)) == 0).sum((1, 2, 3))
    assert areas.bincount().tolist() == [0, 1, 62, 0, 961]


def test_cutout_writes_the_mean_color_in_one_square_per_image():
    images = torch.full((300, 3, 8, 8), 255, dtype=torch.uint8)
    seen = batches(of(images), cutout=4).augment(torch.arange(300))
    untouched = Normalization().apply(images[:1])
    holes = (seen == 0).all(1)
    assert torch.equal(torch.where(holes[:, None], untouched, seen), untouched.expand_as(seen))
    for hole in holes:
        rows, columns = hole.any(1).nonzero().squeeze(1), hole.any(0).nonzero().squeeze(1)
        for span in (rows, columns):
            assert span.tolist() == list(range(int(span[0]), int(span[-1]) + 1))
            assert 2 <= len(span) <= 4
        assert int(hole.sum()) == len(rows) * len(columns)
    assert {int(hole.sum()) for hole in holes} == {4, 6, 8, 9, 12, 16}
