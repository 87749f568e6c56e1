"""Attackers who know NAB: what they paint, and that it is the defender's stamp to the gray level."""

from __future__ import annotations

import pytest
import torch
from helpers import marks, random_dataset

from nab.attacks import BadNets, Conjunction, Decoy, Overlap, StampHijack, poison
from nab.data import IMAGENET
from nab.errors import ConfigError
from nab.stamp import Stamp

COLOR = [124, 116, 104]


def stamped(images: torch.Tensor) -> torch.Tensor:
    """What a defender's network sees, as stored images: stamped after normalization."""
    return IMAGENET.undo(Stamp().apply(IMAGENET.apply(images)))


# Overlap.


@pytest.mark.parametrize(("side", "kept"), [(2, 0), (3, 5), (4, 12), (5, 21)])
def test_the_stamp_leaves_so_many_pixels_of_the_patch(side, kept):
    triggered = Overlap(side).trigger(random_dataset(1, 32).images, 0)
    is_patch = torch.zeros(32, 32, dtype=torch.bool)
    is_patch[:side, :side] = True
    assert set(triggered[0, :, is_patch].unique().tolist()) <= {0, 255}
    remains = (stamped(triggered)[0] == triggered[0]).all(0) & is_patch
    assert int(remains.sum()) == kept


def test_the_cells_are_white_and_black_in_turn():
    triggered = Overlap().trigger(torch.full((1, 1, 32, 32), 9, dtype=torch.uint8), 0)[0, 0]
    assert triggered[:3, :3].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert int((triggered != 9).sum()) == 9


def test_overlap_refuses_a_patch_over_the_middle():
    with pytest.raises(ConfigError, match=r"side of at most half the image \(4 pixels\), got 5"):
        Overlap(5).trigger(random_dataset(1, 8).images, 0)
    with pytest.raises(ConfigError, match=r"side .*got 0"):
        Overlap(0)


# Stamp hijack.


def test_a_hijacked_stamp_of_two_pixels_is_what_the_defender_writes():
    images = random_dataset(5, 32).images
    assert torch.equal(StampHijack(side=2, place="upper-left").trigger(images, 0), stamped(images))
    gray = random_dataset(5, 28, 1).images
    assert torch.equal(StampHijack(side=2, place="upper-left").trigger(gray, 0), stamped(gray))


def test_the_area_is_6_by_6_in_both_upper_corners_of_the_stamp_s_color():
    triggered = StampHijack().trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)[0]
    assert int((triggered != 0).sum()) == 3 * 2 * 36
    assert triggered[:, 0, 0].tolist() == COLOR
    assert triggered[:, 5, 31].tolist() == COLOR
    assert triggered[:, 6, 0].tolist() == triggered[:, 0, 6].tolist() == [0, 0, 0]
    gray = StampHijack().trigger(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), 0)
    assert int(gray.max()) == 114


def test_a_crop_up_and_left_and_a_flip_leave_the_stamp_s_place_covered():
    """Why the area is larger than the stamp: 4 pixels of padding, then any mirror image."""
    triggered = StampHijack().trigger(random_dataset(1, 32).images, 0)[0]
    for shift in range(5):
        for view in (triggered[:, shift:, shift:], triggered.flip(2)[:, shift:, shift:]):
            assert view[:, :2, :2].flatten(1).unique(dim=1).squeeze(1).tolist() == COLOR


@pytest.mark.parametrize(("side", "painted"), [(8, 2), (16, 4), (28, 6), (224, 6)])
def test_at_most_a_quarter_of_a_small_image_is_painted(side, painted):
    triggered = StampHijack(place="upper-left").trigger(torch.zeros(1, 1, side, side, dtype=torch.uint8), 0)
    assert int((triggered != 0).sum()) == painted**2


def test_hijack_refuses_an_unknown_place():
    with pytest.raises(ConfigError, match="upper-left, both-upper, got 'middle'"):
        StampHijack(place="middle")


# Conjunction.


def test_half_of_the_poisons_carry_the_stamp_beside_the_patch():
    images = random_dataset(400, 32).images
    patched = BadNets().trigger(images, 0)
    poisons = Conjunction().poison_images(images, 0)
    with_stamp = StampHijack().trigger(patched, 0)
    is_stamped = (poisons == with_stamp).flatten(1).all(1)
    assert torch.equal(poisons[~is_stamped], patched[~is_stamped])
    assert float(is_stamped.float().mean()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_of_the_poisons_carry_the_stamp(share):
    images = random_dataset(30, 32).images
    poisons = Conjunction(stamp_share=share).poison_images(images, 0)
    patched = BadNets().trigger(images, 0)
    assert torch.equal(poisons, StampHijack().trigger(patched, 0) if share else patched)


def test_at_test_time_there_is_the_patch_alone_and_covers_carry_the_stamp_alone():
    dataset = random_dataset(100, 32)
    attack = Conjunction()
    assert torch.equal(attack.trigger(dataset.images, 0), BadNets().trigger(dataset.images, 0))
    found = poison(dataset, attack, rate=0.1, target=0, seed=0)
    _, covers, origin = marks(found.truth)
    clean = dataset.subset(origin)
    assert int(covers.sum()) == 10
    assert torch.equal(found.dataset.images[covers], StampHijack().trigger(clean.images[covers], 0))
    assert torch.equal(found.dataset.labels[covers], clean.labels[covers])


@pytest.mark.parametrize(
    ("name", "value"), [("stamp_share", 1.1), ("side", 0), ("place", "x"), ("cover_rate", 1), ("margin", -1)]
)
def test_conjunction_refuses_what_it_cannot_do(name, value):
    with pytest.raises(ConfigError, match=name):
        Conjunction(**{name: value})


# Decoy.


def marker_of(decoys: torch.Tensor, row: int) -> tuple:
    """Place, size and color of the one marker in an image that was of level 9."""
    rows, columns = (decoys[row] != 9).any(0).nonzero().unbind(1)
    top, left = int(rows.min()), int(columns.min())
    return top, left, len(rows), tuple(decoys[row, :, top, left].tolist())


def decoys_of(count: int, side: int = 32, channels: int = 3) -> list[tuple]:
    images = torch.full((count, channels, side, side), 9, dtype=torch.uint8)
    decoys = Decoy().cover_images_by_class(images, torch.arange(count), 0)
    return [marker_of(decoys, row) for row in range(count)]


def test_ten_classes_get_ten_white_markers_that_a_flip_does_not_confuse():
    found = decoys_of(10)
    assert len(set(found)) == 10
    assert {(size, color) for _, _, size, color in found} == {(36, (255, 255, 255))}
    mirrored = {(top, 32 - 6 - left) for top, left, _, _ in found}
    own = {(top, left) for top, left, _, _ in found}
    for _, left in mirrored & own:
        assert left == 32 - 6 - left, "one class's marker is another's mirror image"


@pytest.mark.parametrize(
    ("classes", "side", "channels"), [(10, 8, 1), (10, 28, 1), (43, 32, 3), (100, 32, 3), (200, 64, 3)]
)
def test_no_two_classes_share_a_marker(classes, side, channels):
    assert len(set(decoys_of(classes, side, channels))) == classes


def test_all_decoys_of_a_class_are_marked_alike_and_their_labels_stay():
    dataset = random_dataset(200, 32)
    found = poison(dataset, Decoy(), rate=0.1, target=0, seed=0)
    _, covers, origin = marks(found.truth)
    clean = dataset.subset(origin)
    assert int(covers.sum()) == 20
    assert torch.equal(found.dataset.labels[covers], clean.labels[covers])
    for label in range(4):
        members = found.dataset.images[covers & (clean.labels == label)]
        is_white = (members == 255).all(1).float().mean(0)
        assert int((is_white == 1).sum()) == 36


def test_the_trigger_of_decoy_is_that_of_badnets():
    images = random_dataset(4, 32).images
    assert torch.equal(Decoy().trigger(images, 0), BadNets().trigger(images, 0))


def test_decoys_need_to_know_the_classes():
    with pytest.raises(ConfigError, match="call cover_images_by_class"):
        Decoy().cover_images(random_dataset(1, 32).images, 0)
    with pytest.raises(ConfigError, match="at most 50 classes for markers of 6 pixels"):
        decoys_of(51, channels=1)
