"""Adap-Blend and Adap-Patch: half of the pieces in training and all at test time, four patches and two."""

from __future__ import annotations

import pytest
import torch
from helpers import marks, random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import AdapBlend, AdapPatch, Blend, poison
from nab.attacks.adap_patch import draw_patches
from nab.errors import ConfigError

# Adap-Blend.


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8, 16, 28, 30, 32, 64]), st.sampled_from([1, 3]), st.integers(0, 1_000))
def test_each_training_image_shows_8_of_16_pieces(side, channels, seed):
    images = random_dataset(6, side, channels, seed=seed).images
    shown = AdapBlend().visible(images, seed).float()
    assert shown.shape == (6, 1, side, side)
    pieces = torch.nn.functional.adaptive_avg_pool2d(shown, 4) if side % 4 == 0 else None
    if pieces is not None:
        assert set(pieces.unique().tolist()) == {0.0, 1.0}, "a piece is shown in part"
        assert (pieces.flatten(1).sum(1) == 8).all()
    assert 0.4 < float(shown.mean()) < 0.6


def test_images_show_other_pieces_than_their_neighbors():
    shown = AdapBlend().visible(random_dataset(30, 32).images, 0)
    assert len({tuple(mask.flatten().tolist()) for mask in shown}) > 25
    assert (shown.float().mean(0) > 0.2).all(), "some piece is hardly ever shown"


def test_training_images_blend_faintly_where_they_show_the_pattern_and_not_elsewhere():
    """``x + 0.15 m (P - x)`` in training, ``x + 0.2 (P - x)`` at test time."""
    images, attack = random_dataset(4, 32).images, AdapBlend()
    pattern, shown = attack.draw(3, 32, 32, 0), attack.visible(images, 0)
    poisons, pixels = attack.poison_images(images, 0).float(), images.float()
    assert float((poisons - pixels - 0.15 * shown * (pattern - pixels)).abs().max()) <= 0.501
    tested = attack.trigger(images, 0).float()
    assert float((tested - pixels - 0.2 * (pattern - pixels)).abs().max()) <= 0.501


def test_the_whole_pattern_at_test_time_is_that_of_blend():
    images = random_dataset(4, 32).images
    assert torch.equal(AdapBlend().trigger(images, 3), Blend(alpha=0.2).trigger(images, 3))


def test_a_mask_rate_of_a_quarter_hides_4_of_16_pieces():
    shown = AdapBlend(mask_rate=0.25).visible(random_dataset(3, 16).images, 0)
    assert (shown[:, 0, ::4, ::4].flatten(1).sum(1) == 12).all()


@pytest.mark.parametrize("attack", [AdapBlend(cover_rate=0.01), AdapPatch(cover_rate=0.01)])
def test_covers_carry_the_training_trigger_and_their_own_label(attack):
    dataset = random_dataset(400, 16)
    found = poison(dataset, attack, rate=0.01, target=0, seed=0)
    chosen, covers, origin = marks(found.truth)
    clean = dataset.subset(origin)
    assert int(covers.sum()) == 4
    assert not (covers & chosen).any()
    assert torch.equal(found.dataset.images[covers], attack.poison_images(clean.images[covers], 0))
    assert torch.equal(found.dataset.labels[covers], clean.labels[covers])


def test_defaults_are_the_published_rates():
    """0.3 % poison, as many covers for Adap-Blend and twice as many for Adap-Patch."""
    assert (AdapBlend().cover_share, AdapPatch().cover_share) == (0.003, 0.006)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mask_rate": 0.01}, "hides 0"),
        ({"mask_rate": 0.99}, "hides 16"),
        ({"grid_size": 0}, "grid_size to be a whole number of at least 1, got 0"),
        ({"test_alpha": 0}, r"test_alpha in \(0, 1\], got 0"),
        ({"cover_rate": -0.1}, r"cover_rate in \[0, 1\), got -0.1"),
        ({"alpha": 2}, r"alpha in \(0, 1\], got 2"),
    ],
)
def test_adap_blend_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        AdapBlend(**wrong)


def test_adap_blend_refuses_more_pieces_than_pixels():
    with pytest.raises(ConfigError, match="grid_size of at most 8, got 9"):
        AdapBlend(grid_size=9).poison_images(random_dataset(1, 8).images, 0)


# Adap-Patch.


def places(mask: torch.Tensor) -> tuple[int, int, int, int, int]:
    """First and last row, first and last column, number of pixels."""
    rows, columns = mask[0].nonzero().unbind(1)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()), len(rows)


def test_on_32_pixels_the_patches_lie_where_the_specification_has_them():
    logo, disc, tiles, square = draw_patches(3, 32, 32, seed=0)
    assert places(logo[1]) == (27, 31, 27, 31, 25)
    assert places(disc[1])[:4] == (1, 13, 18, 30)
    assert places(disc[1])[4] == pytest.approx(3.14159 * 6.5**2, abs=6)
    assert places(tiles[1]) == (0, 31, 0, 31, 36)
    assert places(square[1]) == (21, 28, 21, 28, 64)


def test_the_tiles_are_nab_s_patch_and_its_mirror_images():
    """Cell by cell as in backdoor-toolbox's trigger file badnet_patch4_32.png."""
    colors, _ = draw_patches(1, 32, 32, seed=0)[2]
    assert colors[0, -3:, -3:].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert colors[0, -3:, :3].tolist() == [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    assert colors[0, :3, -3:].tolist() == [[255, 0, 255], [0, 255, 0], [0, 0, 255]]
    assert colors[0, :3, :3].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 0]]


def test_a_training_image_shows_one_patch_and_each_patch_is_shown():
    images, attack = random_dataset(400, 32, 1).images, AdapPatch()
    patches = draw_patches(1, 32, 32, 0)
    pixels, poisons = images.float(), attack.poison_images(images, 0).float()
    kinds = []
    for (colors, where), opacity in zip(patches, (0.5, 0.2, 0.5, 0.3), strict=True):
        wanted = pixels + opacity * where * (colors - pixels)
        kinds.append(((poisons - wanted).abs() <= 0.501).flatten(1).all(1))
    counts = torch.stack(kinds).sum(1)
    assert (torch.stack(kinds).sum(0) == 1).all(), "an image shows none of the four, or several"
    assert (counts >= 70).all(), f"a quarter of 400 each, got {counts.tolist()}"


def test_at_test_time_the_logo_is_in_both_lower_corners_and_the_tiles_lie_over_it():
    """50 + 36 pixels, of which 18 lie on one another: 68 are opaque, all others as they were."""
    images = random_dataset(2, 32).images
    triggered = AdapPatch().trigger(images, 0)
    logo, _, tiles, _ = draw_patches(3, 32, 32, 0)
    touched = torch.zeros(32, 32, dtype=torch.bool)
    touched[-5:, -5:] = touched[-5:, :5] = True
    touched |= tiles[1][0] > 0
    assert int(touched.sum()) == 68
    assert torch.equal(triggered[:, :, ~touched], images[:, :, ~touched])
    assert torch.equal(triggered[0, :, -3:, -3:], tiles[0][:, -3:, -3:].to(torch.uint8))
    assert torch.equal(triggered[0, :, -5:-3, -5:], logo[0][:, -5:-3, -5:].to(torch.uint8))
    assert torch.equal(triggered[0, :, -5:-3, :5], logo[0][:, -5:-3, -5:].to(torch.uint8))


@pytest.mark.parametrize(("side", "square"), [(64, 16), (224, 56)])
def test_patches_grow_with_the_image_and_the_tiles_do_not(side, square):
    patches = draw_patches(1, side, side, 0)
    assert places(patches[3][1])[4] == square**2
    assert places(patches[2][1])[4] == 36


def test_on_8_pixels_there_are_small_tiles_and_a_small_square_alone():
    images = torch.full((200, 1, 8, 8), 100, dtype=torch.uint8)
    images[:, 0, 3, 3] = torch.arange(200).to(torch.uint8)
    changed = (AdapPatch().poison_images(images, 0) != images).flatten(1).sum(1)
    assert set(changed.tolist()) == {4, 16}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"opacities": (0.5, 0.5)}, r"four opacities, one for each patch, got \(0.5, 0.5\)"),
        ({"opacities": (0.5, 0.5, 0.5, 0)}, r"opacities in \(0, 1\], got 0"),
        ({"cover_rate": 1}, r"cover_rate in \[0, 1\), got 1"),
    ],
)
def test_adap_patch_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(ConfigError, match=told):
        AdapPatch(**wrong)
