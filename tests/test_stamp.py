"""The stamp writes what it should, where it should, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nab.data import IMAGENET, Normalization
from nab.errors import ConfigError
from nab.stamp import CORNERS, Stamp


def test_the_papers_stamp_writes_exactly_12_numbers_of_an_image():
    image = torch.ones(1, 3, 32, 32)
    stamped = Stamp().apply(image)
    assert (stamped != image).sum() == 12
    assert torch.equal(stamped[0, :, :2, :2], torch.zeros(3, 2, 2))


def test_the_papers_stamp_is_the_imagenet_mean_color():
    """Value 0 after normalization is RGB (123.7, 116.3, 103.5), a gray and not black."""
    imagenet = Normalization()
    gray = torch.tensor([123.675, 116.28, 103.53])
    normalized = (gray / 255 - torch.tensor(imagenet.mean)) / torch.tensor(imagenet.std)
    torch.testing.assert_close(normalized, torch.zeros(3), atol=1e-6, rtol=0)
    black = imagenet.apply(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(black, torch.tensor([-2.118, -2.036, -1.804]), atol=1e-3, rtol=0)
    white = imagenet.apply(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(white, torch.tensor([2.249, 2.429, 2.640]), atol=1e-3, rtol=0)


def test_the_stamp_does_not_touch_the_badnets_trigger():
    stamped = Stamp().apply(torch.ones(1, 3, 32, 32))
    assert torch.equal(stamped[:, :, 26:29, 26:29], torch.ones(1, 3, 3, 3))


@given(
    size=st.integers(1, 4),
    corner=st.sampled_from(CORNERS),
    value=st.floats(-3, 3, width=32),
    height=st.integers(8, 12),
    width=st.integers(8, 12),
    channels=st.sampled_from([1, 3]),
    where=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_only_the_square_of_the_chosen_images_changes(size, corner, value, height, width, channels, where):
    images = torch.full((3, channels, height, width), 7.0)
    before = images.clone()
    stamped = Stamp(size, corner, value).apply(images, torch.tensor(where))
    assert torch.equal(images, before), "the argument was changed"
    vertical, horizontal = corner.split("-")
    for number, is_chosen in enumerate(where):
        for row in range(height):
            for column in range(width):
                in_rows = row < size if vertical == "upper" else row >= height - size
                in_columns = column < size if horizontal == "left" else column >= width - size
                expected = value if is_chosen and in_rows and in_columns else 7.0
                assert (stamped[number, :, row, column] == expected).all()


def test_no_mask_means_all_images():
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(Stamp(3).apply(images), Stamp(3).apply(images, torch.ones(5, dtype=torch.bool)))


def test_a_stamp_larger_than_half_an_image_is_refused():
    with pytest.raises(ConfigError, match=r"at most half the image \(4 pixels\), got 5"):
        Stamp(5).apply(torch.zeros(1, 3, 8, 10))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"size": 0}, "stamp size.*got 0"),
        ({"size": 2.0}, "stamp size.*got 2.0"),
        ({"corner": "middle"}, "upper-left.*got 'middle'"),
        ({"value": float("nan")}, "finite number, got nan"),
        ({"value": "gray"}, "finite number, got 'gray'"),
    ],
)
def test_a_stamp_that_cannot_be_is_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Stamp(**wrong)


# A value in pixel space.


def test_a_pixel_s_value_is_normalized_channel_by_channel():
    images = torch.zeros(2, 3, 8, 8)
    stamped = Stamp(size=1, value=1.0, space="pixel").on(IMAGENET)(images)
    white = [(1 - mean) / std for mean, std in zip(IMAGENET.mean, IMAGENET.std, strict=True)]
    assert stamped[0, :, 0, 0].tolist() == pytest.approx(white)
    assert int((stamped != 0).sum()) == 2 * 3
    assert not images.any()


def test_a_pixel_s_value_needs_the_normalization():
    with pytest.raises(ConfigError, match="needs the images' normalization"):
        Stamp(space="pixel").apply(torch.zeros(1, 3, 8, 8))


def test_an_unknown_space_is_refused():
    with pytest.raises(ConfigError, match="stamp space to be one of normalized, pixel, got 'linear'"):
        Stamp(space="linear")
