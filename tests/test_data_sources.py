"""Datasets by name, their parameters, and other people's objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from nab.data import DATASETS, IDENTITY, IMAGENET, Normalization, from_torch, load
from nab.data.digits import Digits
from nab.errors import ConfigError, DataError

# By name.


def test_an_unknown_dataset_lists_the_known_ones():
    known = "cifar10, digits, folder, tiny-imagenet"
    with pytest.raises(ConfigError, match=rf"unknown dataset 'digit'.*{known}; did you mean 'digits'"):
        load("digit")


def test_every_source_says_what_it_is():
    for source in DATASETS.values():
        assert source.summary
        assert source.source


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"siz": 16}, r"unknown parameter of dataset 'digits' 'siz': .* did you mean 'size'"),
        ({"size": 7}, "size to be a whole number from 8 to 224, got 7"),
        ({"size": "large"}, "parameter size: .*got 'large'"),
        ({"train_size": 0}, "train_size to be a whole number of at least 1, got 0"),
        ({"train_size": 9}, r"train_size from 10 \(one per class\) to 1438 .*got 9"),
        ({"train_size": 1439}, "to 1438 .*got 1439"),
        ({"normalization": {"mean": [0.5, 0.5]}}, "normalization, parameter mean"),
        ({"normalization": {"means": [0.5] * 3}}, "'means': expected one of mean, std; did you mean 'mean'"),
        ({"normalization": 1}, "normalization: expected a mapping of its fields, got 1"),
        ({"normalization": {"mean": [0.5, 0.5, math.nan]}}, r"mean as three finite numbers, got \(0.5, 0.5, nan\)"),
        ({"normalization": {"std": [1, 1, math.inf]}}, r"std as three finite numbers, got \(1.0, 1.0, inf\)"),
        ({"normalization": {"std": [1, 0, 1]}}, r"std above 0 in every channel, got \(1.0, 0.0, 1.0\)"),
    ],
)
def test_a_parameter_that_is_unknown_or_not_valid_is_named_in_one_line(params, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load("digits", **params)
    assert "\n" not in str(caught.value)


def test_digits_are_split_once_and_for_all(digits):
    train, test = digits
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.shape[1:] == (3, 32, 32)
    assert train.labels.unique().tolist() == list(range(10))
    assert load("digits")[0].fingerprint == train.fingerprint
    rows = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images), "a test image is in the training part"


def test_digits_are_the_bundled_ones_enlarged(digits):
    """The mean brightness of the 8 x 8 originals survives (16 levels on the scale of 255)."""
    from sklearn.datasets import load_digits

    whole = torch.cat([part.images for part in digits]).float()
    assert abs(float(whole.mean()) - load_digits().images.mean() * 255 / 16) < 1
    assert torch.equal(whole[:, 0], whole[:, 1])


def test_digits_of_every_size_are_kept_apart():
    """The smallest size is that of the originals, whose 17 levels become multiples of 255 / 16."""
    levels = {round(level * 255 / 16) for level in range(17)}
    for _ in range(2):  # decoded, and from the cache
        assert load("digits", size=16)[0].images.shape[1:] == (3, 16, 16)
        original = load("digits", size=8)[0]
        assert original.images.shape[1:] == (3, 8, 8)
        assert set(original.images.unique().tolist()) == levels


def test_a_training_size_takes_a_balanced_part_that_depends_on_the_seed(digits):
    parts = [load("digits", train_size=100, seed=seed) for seed in (0, 0, 1)]
    assert all(abs(count - 10) <= 1 for count in parts[0][0].labels.bincount().tolist())
    assert [len(test) for _, test in parts] == [359] * 3
    assert parts[0][0].fingerprint == parts[1][0].fingerprint != parts[2][0].fingerprint


def test_the_normalization_travels_with_the_images(digits):
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert digits[0].normalization == IMAGENET
    for given in (halves, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}):
        train, test = load("digits", train_size=50, normalization=given)
        assert train.normalization == test.normalization == train.subset(torch.tensor([0])).normalization == halves


def test_parameters_of_a_source_come_before_those_of_all_sources():
    assert Digits(16) == Digits(size=16, train_size=None)
    with pytest.raises(TypeError, match="positional"):
        Digits(16, 100)  # type: ignore[call-arg]


def test_data_that_has_no_published_fingerprint_is_named_as_such(digits):
    assert Digits().provenance(*digits) == "no published fingerprint"


# Normalization.


def test_normalization_is_applied_channel_by_channel_and_undone():
    normalization = Normalization((0.2, 0.4, 0.6), (0.5, 0.25, 0.1))
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(-1, 3, 1, 1)  # 0, 0.2 and 1
    seen = normalization.apply(pixels)
    by_hand = [[-0.4, -1.6, -6.0], [0.0, -0.8, -4.0], [1.6, 2.4, 4.0]]
    torch.testing.assert_close(seen.flatten(1), torch.tensor(by_hand), atol=1e-5, rtol=0)
    assert torch.equal(normalization.undo(seen), pixels)
    white = normalization.level(1.0, 3, torch.device("cpu")).flatten()
    torch.testing.assert_close(white, torch.tensor([1.6, 2.4, 4.0]))


def test_gray_images_are_normalized_by_the_average_over_the_channels():
    normalization = Normalization((0.1, 0.2, 0.6), (0.2, 0.3, 0.7))  # 0.3 and 0.4 on average
    seen = normalization.apply(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    assert seen.item() == pytest.approx((1 - 0.3) / 0.4, abs=1e-5)


def test_the_identity_hands_pixels_over_as_they_are():
    pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    assert IDENTITY.is_identity
    assert not IMAGENET.is_identity
    assert torch.equal(IDENTITY.apply(pixels), pixels.float())
    assert torch.equal(IDENTITY.undo(pixels.float()), pixels)


@pytest.mark.parametrize("mean", [0.5, "abc", (0.5, 0.5), (0.5, 0.5, "half"), (0.5, 0.5, True), (0, 0, math.nan)])
def test_a_normalization_of_anything_but_three_finite_numbers_is_refused(mean):
    with pytest.raises(ConfigError, match="normalization mean as three finite numbers, got"):
        Normalization(mean)


def test_equal_normalizations_are_equal_however_they_are_written():
    as_lists = Normalization([0, 0, 0], [1, 1, 1])  # type: ignore[arg-type]
    assert as_lists == Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert {type(value) for value in (*as_lists.mean, *as_lists.std)} == {float}


# Other people's objects.


class Items:
    """A torch map-style dataset of given items."""

    def __init__(self, items: list, classes: list[str] | None = None) -> None:
        self._items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int):
        return self._items[index]


@pytest.mark.parametrize(
    "image",
    [
        picture(51),
        np.full((8, 8, 3), 51, dtype=np.uint8),
        torch.full((3, 8, 8), 51, dtype=torch.uint8),
        torch.full((3, 8, 8), 0.2),
        np.full((8, 8, 3), 0.2, dtype=np.float32),
    ],
    ids=["PIL", "uint8 array", "uint8 tensor", "float tensor", "float array"],
)
def test_any_kind_of_image_item_becomes_the_same_uint8(image):
    dataset = from_torch(Items([(image, 0), (image, 1)]))
    assert dataset.images.shape == (2, 3, 8, 8)
    assert dataset.images.unique().tolist() == [51]
    assert dataset.classes == ("0", "1")
    assert dataset.name == "items"


@pytest.mark.parametrize(
    "image",
    [
        picture(51, mode="L"),
        np.full((8, 8), 51, dtype=np.uint8),
        torch.full((8, 8), 51, dtype=torch.uint8),
        torch.full((1, 8, 8), 0.2),
    ],
    ids=["PIL", "array", "tensor", "float"],
)
def test_gray_items_keep_one_channel(image):
    dataset = from_torch(Items([(image, 0), (image, 1)]), name="gray")
    assert dataset.images.shape == (2, 1, 8, 8)
    assert dataset.images.unique().tolist() == [51]


def test_class_names_come_from_the_caller_the_source_or_the_labels():
    items = [(picture(0), torch.tensor(0)), (picture(1), np.int64(1))]
    assert from_torch(Items(items, ["cat", "dog"])).classes == ("cat", "dog")
    assert from_torch(Items(items, ["cat", "dog"]), classes=("x", "y")).classes == ("x", "y")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (
            [(torch.full((3, 8, 8), 2.0), 0)],
            "image 0 as uint8 or as float in .0, 1., got torch.float32 from 2 to 2; leave the normal",
        ),
        ([(torch.zeros(3, 8, 8, dtype=torch.int64), 0)], "image 0 as uint8 or as float.*torch.int64;"),
        ([(np.zeros((8, 8, 4), dtype=np.uint8), 0)], "image 0 with 1 or 3 channels, got 4 x 8 x 8"),
        ([(picture(0, mode="L"), 0), (torch.zeros(2, 8, 8), 1)], "image 1 with 1 or 3 channels, got 2 x 8 x 8"),
        ([(Image.fromarray(np.zeros((8, 8), dtype=np.uint16)), 0)], "image 0: expected 8 bits .* mode I;16"),
        ([(picture(0), 0), (picture(0, (9, 8)), 1)], "one size, got 3 x 8 x 8 and 3 x 8 x 9; resize"),
        ([], "at least one image in 'items', got none"),
        ([(picture(0), 0), (picture(1), 0)], "at least two classes in 'items', got 1"),
    ],
    ids=["not in 0 to 1", "integers", "four channels", "two channels", "16 bits", "sizes", "empty", "one class"],
)
def test_items_that_cannot_be_used_are_named(items, told):
    with pytest.raises(DataError, match=told):
        from_torch(Items(items))


def test_gray_items_among_color_ones_become_color():
    dataset = from_torch(Items([(picture(51, mode="L"), 0), (picture(60), 1)]))
    assert dataset.images.shape == (2, 3, 8, 8)
    assert [image.unique().tolist() for image in dataset.images] == [[51], [60]]
