"""Views for self-supervised training: every operation on a few pixels worked out by hand, and against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from nab.errors import ConfigError
from nab.selfsupervised.views import Views, blur, crop, recolor

PLAIN = Views(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_rate=0, jitter_rate=0, gray_rate=0, blur_rate=0)
COLOR = torch.tensor([100.0, 50.0, 200.0])
"""Its luma is 0.299 * 100 + 0.587 * 50 + 0.114 * 200 = 82.05."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 4, channels: int = 3, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), generator=generator(1), dtype=torch.uint8)


def flat(color: torch.Tensor) -> torch.Tensor:
    """float, 1 x 3 x 4 x 4."""
    return color.view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()


def recolored(
    images: torch.Tensor, *, brightness: float = 1, contrast: float = 1, saturation: float = 1, turn: float = 0
) -> torch.Tensor:
    factors = (torch.full((len(images),), float(factor)) for factor in (brightness, contrast, saturation, turn))
    return recolor(images, *factors)


# Colors.


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({}, [100, 50, 200]),
        ({"brightness": 1.2}, [120, 60, 240]),
        ({"brightness": 1.4}, [140, 70, 255]),  # 280 is cut off
        ({"saturation": 0}, [82.05, 82.05, 82.05]),
        ({"saturation": 0.5}, [91.025, 66.025, 141.025]),
        ({"contrast": 0.5}, [91.025, 66.025, 141.025]),  # the mean luma of a flat image is its luma
        ({"turn": 0.5}, [64.1, 114.1, 0]),  # 2 * 82.05 minus the color; the last one is -35.9
        ({"brightness": 1.2, "contrast": 0.5, "saturation": 0.5}, [103.845, 88.845, 133.845]),
    ],
)
def test_a_flat_color_under_jitter_is_what_one_works_out_by_hand(factors, expected):
    found = recolored(flat(COLOR), **factors)
    torch.testing.assert_close(found, flat(torch.tensor(expected, dtype=torch.float32)), atol=1e-3, rtol=0)


def test_contrast_pulls_a_gray_image_towards_its_mean():
    images = torch.tensor([50.0, 150.0]).repeat(8).view(1, 1, 4, 4)
    assert recolored(images, contrast=0.5).unique().tolist() == [75, 125]
    assert recolored(images, contrast=0.5, brightness=0.8).unique().tolist() == [60, 100]


def test_a_turned_hue_goes_from_red_towards_yellow_and_keeps_its_luma():
    color = torch.tensor([180.0, 60.0, 60.0])
    turned = recolored(flat(color), turn=0.05)[0, :, 0, 0]
    assert turned[1] > 60 > turned[2]
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(turned @ luma, color @ luma, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_brightness_contrast_and_saturation_are_those_of_torchvision(name, factor):
    images = noise().float()
    expected = getattr(tv, f"adjust_{name}")(images / 255, factor) * 255
    torch.testing.assert_close(recolored(images, **{name: factor}), expected, atol=0.05, rtol=0)  # luma 0.2989 there


def test_gray_images_have_no_color_to_change():
    images = noise(channels=1).float()
    assert torch.equal(recolored(images, saturation=0, turn=0.3), images)


def test_every_image_of_a_batch_gets_its_own_factors():
    images = torch.cat([flat(COLOR)] * 2)
    factors = torch.ones(2), torch.ones(2), torch.tensor([1.0, 0.0]), torch.zeros(2)
    found = recolor(images, *factors)[:, :, 0, 0]
    torch.testing.assert_close(found, torch.stack([COLOR, torch.full((3,), 82.05)]), atol=1e-3, rtol=0)


# Crops.


def test_a_crop_of_everything_is_the_image_and_a_flip_its_mirror():
    images = noise(2, height=9, width=12).float()
    boxes = torch.tensor([0.0, 0.0, 9.0, 12.0])[:, None].expand(4, 2)
    torch.testing.assert_close(crop(images, boxes, torch.tensor([False, False]), (9, 12)), images, atol=1e-2, rtol=0)
    mirrored = crop(images, boxes, torch.tensor([False, True]), (9, 12))
    torch.testing.assert_close(mirrored, torch.stack([images[0], images[1].flip(2)]), atol=1e-2, rtol=0)


def test_a_crop_enlarges_what_lies_in_its_box():
    """On a ramp of 10 per column, output column j shows column 2.25 + (j + 1/2) / 2 - 1/2: every whole and half one, at
    which a cubic is exact."""
    images = (10.0 * torch.arange(8)).expand(1, 1, 8, 8).contiguous()
    boxes = torch.tensor([2.25, 2.25, 4.0, 4.0])[:, None]
    columns = crop(images, boxes, torch.tensor([False]), (8, 8))[0, 0]
    expected = torch.tensor([20.0, 25, 30, 35, 40, 45, 50, 55]).expand(8, 8)
    torch.testing.assert_close(columns, expected, atol=1e-3, rtol=0)
    rows = crop(images.mT.contiguous(), boxes, torch.tensor([False]), (8, 8))[0, 0]
    torch.testing.assert_close(rows, expected.T, atol=1e-3, rtol=0)


def test_a_crop_is_bicubic_and_stays_within_the_range():
    """Halfway between columns a cubic (a = -0.75) weighs the four around it -3/32, 19/32, 19/32 and -3/32.

    Column 4 is 200 and the others are 100; then 255 and 250, of which a cubic makes more than there is.
    """
    boxes = torch.tensor([2.25, 2.25, 4.0, 4.0])[:, None]
    for base, peak, expected in (
        (100, 200, [90.625, 159.375, 159.375, 90.625]),
        (255, 250, [255, 252.031, 252.031, 255]),
    ):
        images = torch.full((1, 1, 8, 8), float(base))
        images[..., 4] = peak
        found = crop(images, boxes, torch.tensor([False]), (8, 8))[0, 0, 0, 1::2]  # columns 2.5, 3.5, 4.5, 5.5
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=0)


def test_a_smaller_view_shows_the_same_box():
    """On a ramp of 10 per column, column j of 4 shows column 2 (j + 1/2) - 1/2, whatever the row."""
    ramp = (10.0 * torch.arange(8)).expand(1, 1, 8, 8).contiguous()
    whole = torch.tensor([0.0, 0.0, 8.0, 8.0])[:, None]
    found = crop(ramp, whole, torch.tensor([False]), (2, 4))[0, 0]
    torch.testing.assert_close(found[:, 1:3], torch.tensor([[25.0, 45.0]] * 2), atol=1e-3, rtol=0)  # free of the edge
    assert crop(ramp, whole, torch.tensor([True]), (2, 4))[0, 0, 0].tolist() == found[0].flip(0).tolist()
    assert crop(ramp.mT.contiguous(), whole, torch.tensor([False]), (2, 4))[0, 0, 0].unique().numel() == 1


@pytest.mark.parametrize(("size", "expected"), [(1.0, (12, 9)), (0.5, (6, 4)), (0.75, (9, 7)), (0.01, (2, 2))])
def test_views_have_their_size(size, expected):
    views = Views(size=size).draw(noise(3, height=12, width=9), generator())
    assert views.shape == (3, 3, *expected)
    assert views.dtype == torch.float32


@pytest.mark.parametrize("size", [0.0, 1.5])
def test_a_size_is_a_share_of_the_image(size):
    with pytest.raises(ConfigError, match=r"size in \(0, 1\]"):
        Views(size=size)


def test_boxes_have_the_area_and_the_ratio_that_was_asked_for_and_lie_inside():
    u = torch.rand(4, 2000, generator=generator())
    top, left, rows, columns = Views(scale=(0.2, 0.5), ratio=(0.75, 4 / 3))._boxes(u, 20, 40)
    assert bool(((top >= 0) & (left >= 0) & (top + rows <= 20.001) & (left + columns <= 40.001)).all())
    area, ratio = rows * columns / 800, columns / rows
    fits = rows < 19.99  # a longer side is cut
    assert 0.199 < float(area[fits].min()) < 0.21
    assert 0.49 < float(area.max()) < 0.501
    assert 0.749 < float(ratio[fits].min()) < 0.76
    assert 1.30 < float(ratio[fits].max()) < 1.334


# Blur.


def test_a_blur_of_one_pixel_spreads_an_impulse_by_its_weights():
    """Three weights in proportion to exp(-1/2), 1, exp(-1/2): 0.27407, 0.45186, 0.27407."""
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 4, 4] = 100
    side, middle = 27.407, 45.186
    found = blur(images, torch.ones(1))[0, 0]
    expected = torch.tensor([side, middle, side])[:, None] * torch.tensor([side, middle, side]) / 100
    torch.testing.assert_close(found[3:6, 3:6], expected, atol=1e-2, rtol=0)
    assert found.sum() == pytest.approx(100, abs=1e-3)


def test_a_blur_goes_on_beyond_the_edge_as_in_a_mirror():
    """Row 0 sees row 1 twice, above and below itself."""
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 1] = 100
    column = blur(images, torch.ones(1))[0, 0, :, 3]
    torch.testing.assert_close(column[:3], torch.tensor([54.814, 45.186, 27.407]), atol=1e-2, rtol=0)


def test_every_image_is_blurred_by_its_own_width_and_none_by_zero():
    images = noise(2).float()
    found = blur(images, torch.tensor([0.0, 1.0]))
    assert torch.equal(found[0], images[0])
    torch.testing.assert_close(found[1:], blur(images[1:], torch.ones(1)))
    assert not torch.equal(found[1], images[1])


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (32, 1), (64, 3)])
def test_the_kernel_is_a_tenth_of_the_image_and_at_least_three_pixels(size, reach):
    images = torch.zeros(1, 1, size, size)
    images[0, 0, size // 2, size // 2] = 1
    rows = (blur(images, torch.full((1,), 2.0))[0, 0] > 0).any(1)
    assert int(rows.sum()) == 2 * reach + 1


# Whole views.


def test_two_views_differ_and_are_the_same_for_the_same_generator():
    images = noise()
    source = generator()
    first, second = (Views().draw(images, source) for _ in range(2))
    assert not torch.equal(first, second)
    again = generator()
    assert torch.equal(Views().draw(images, again), first)
    assert torch.equal(Views().draw(images, again), second)


def test_copies_of_an_image_in_one_batch_get_views_of_their_own():
    views = Views().draw(noise(1).repeat(8, 1, 1, 1), generator())
    assert len(views.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 13), (64, 48)])
def test_views_have_the_shape_and_the_range_of_the_images_which_stay_as_they_are(channels, height, width):
    images = noise(16, channels, height, width)
    before = images.clone()
    views = Views().draw(images, generator())
    assert views.shape == images.shape
    assert views.dtype == torch.float32
    assert 0 <= float(views.min()) <= float(views.max()) <= 255.001
    assert torch.equal(images, before)


def test_without_any_change_a_view_is_the_image():
    images = noise()
    torch.testing.assert_close(PLAIN.draw(images, generator()), images.float(), atol=1e-2, rtol=0)


def test_a_flat_image_only_changes_its_color():
    views = Views(jitter_rate=0, gray_rate=0).draw(noise(1, 3, 1, 1).expand(64, 3, 8, 8).contiguous(), generator())
    torch.testing.assert_close(views, noise(1, 3, 1, 1).float().expand(64, 3, 8, 8), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["flip_rate", "jitter_rate", "gray_rate", "blur_rate"])
def test_a_rate_is_the_share_of_the_views_that_change(name):
    images = noise(1).repeat(2000, 1, 1, 1)
    views = Views(**{**{field: getattr(PLAIN, field) for field in PLAIN.__dataclass_fields__}, name: 0.3})
    change = (views.draw(images, generator()) - images.float()).abs().amax((1, 2, 3))
    # A blur of a tenth of a pixel changes nothing: no less than 1.4 % of the blurred are of that kind.
    assert 0.26 < float((change > 0.5).float().mean()) < 0.34


def test_jitter_factors_fill_their_intervals():
    u = torch.rand(6, 5000, generator=generator())
    views = Views(jitter_rate=1, gray_rate=0, brightness=0.1, contrast=0.2, saturation=0.3, hue=0.4)
    for factors, middle, strength in zip(views._factors(u), (1, 1, 1, 0), (0.1, 0.2, 0.3, 0.4), strict=True):
        assert float(factors.min()) == pytest.approx(middle - strength, abs=0.01)
        assert float(factors.max()) == pytest.approx(middle + strength, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scale": (0.0, 1.0)}, r"lower scale in \(0, 1\], got 0"),
        ({"scale": (0.5, 1.5)}, r"higher scale in \[0.5, 1\], got 1.5"),
        ({"scale": (0.8, 0.5)}, r"lower scale in \(0, 0.5\], got 0.8"),
        ({"ratio": (0.5, math.nan)}, "ratio"),
        ({"sigma": (0.0, 1.0)}, r"lower sigma in \(0, 1\], got 0"),
        ({"flip_rate": 1.5}, r"flip_rate in \[0, 1\], got 1.5"),
        ({"contrast": -1}, r"contrast in \[0, 1\], got -1"),
        ({"hue": 0.6}, r"hue in \[0, 0.5\], got 0.6"),
    ],
)
def test_views_that_cannot_be_drawn_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Views(**wrong)
