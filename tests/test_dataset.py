"""`Dataset`, its fingerprint, and the random parts that are taken from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_dataset
from hypothesis import given
from hypothesis import strategies as st

from nab.data import IDENTITY, Dataset, canonical_order, stratified_index, take
from nab.errors import ConfigError, DataError


def images(count: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.zeros(count, channels, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("pixels", "labels", "classes", "told"),
    [
        (images().float(), [0, 1, 0, 1], "ab", r"uint8 N x C x H x W.*got torch.float32 \(4, 3, 8, 8\)"),
        (images()[0], [0, 1, 0], "ab", r"got torch.uint8 \(3, 8, 8\)"),
        (images(channels=4), [0, 1, 0, 1], "ab", "C 1 or 3"),
        (images(), [0, 1], "ab", r"int64 of length 4, got torch.int64 \(2,\)"),
        (images(), [0.0, 1.0, 0.0, 1.0], "ab", "int64 of length 4, got torch.float32"),
        (images(), [0, 1, 2, 1], "ab", "from 0 to 1, got 0 to 2"),
        (images(), [0, -1, 1, 1], "ab", "from 0 to 1, got -1 to 1"),
        (images(), [0, 0, 0, 0], "a", "at least two classes in 'mine', got 1"),
        (images(0), torch.zeros(0, dtype=torch.long), "ab", "at least one image in 'mine', got none"),
    ],
)
def test_what_is_no_dataset_is_refused_at_the_door(pixels, labels, classes, told):
    with pytest.raises(DataError, match=told):
        Dataset(pixels, torch.as_tensor(labels), tuple(classes), "mine")


def test_a_dataset_has_no_place_for_the_truth():
    """Whoever defends is handed a `Dataset`."""
    assert {field.name for field in dataclasses.fields(Dataset)} == {
        *("images", "labels", "classes", "name"),
        *("normalization", "files"),
    }


def test_files_that_are_not_one_per_row_are_refused():
    with pytest.raises(DataError, match="a file name per row of 'noise', 64, got 2"):
        random_dataset().replace(files=("a.png", "b.png"))


def test_subset_takes_masks_and_positions_in_their_order(noise):
    named = noise.replace(files=tuple(f"{row}.png" for row in range(64)), normalization=IDENTITY)
    assert noise.subset(torch.tensor([5, 2])).labels.tolist() == [1, 2]
    assert noise.subset(noise.labels == 3).labels.tolist() == [3] * 16
    assert noise.subset(noise.labels == 3).files is None
    assert named.subset(torch.tensor([5, 2, 5])).files == ("5.png", "2.png", "5.png")
    assert named.subset(noise.labels == 3).files == tuple(f"{row}.png" for row in range(3, 64, 4))
    assert named.subset(torch.tensor([5])).normalization == IDENTITY


def test_the_digest_sees_order_names_and_normalization_and_not_where_rows_came_from(noise):
    digest = noise.digest
    assert digest == noise.replace(name="other", files=tuple(map(str, range(64)))).digest
    others = [
        noise.subset(torch.arange(63, -1, -1)),
        noise.replace(classes=("a", "b", "c", "e")),
        noise.replace(normalization=IDENTITY),
    ]
    assert len({digest, *(other.digest for other in others)}) == 4


def test_a_copy_knows_the_fingerprint_of_the_rows_that_it_shares(noise, monkeypatch):
    first = noise.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "_computed_fingerprint", lambda _: pytest.fail("it was computed again"))
        assert noise.replace(normalization=IDENTITY).fingerprint == first
    for changes in ({"labels": noise.labels.flip(0)}, {"images": noise.images.flip(0)}):
        assert noise.replace(**changes).fingerprint != first


@given(seed=st.integers(0, 2**31), count=st.integers(2, 30))
def test_the_fingerprint_does_not_depend_on_the_order_of_rows(seed, count):
    dataset = random_dataset(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    shuffled = dataset.subset(order)
    assert shuffled.fingerprint == dataset.fingerprint
    for one, other in zip(
        dataclasses.astuple(canonical_order(shuffled)), dataclasses.astuple(canonical_order(dataset)), strict=True
    ):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@given(row=st.integers(0, 63), channel=st.integers(0, 2), y=st.integers(0, 7), x=st.integers(0, 7))
def test_the_fingerprint_sees_every_pixel(row, channel, y, x):
    dataset = random_dataset()
    pixels = dataset.images.clone()
    pixels[row, channel, y, x] ^= 1
    assert dataset.replace(images=pixels).fingerprint != dataset.fingerprint


@given(row=st.integers(0, 63), shift=st.integers(1, 3))
def test_the_fingerprint_sees_every_label(row, shift):
    dataset = random_dataset()
    labels = dataset.labels.clone()
    labels[row] = (labels[row] + shift) % 4
    assert dataset.replace(labels=labels).fingerprint != dataset.fingerprint


def test_the_fingerprint_sees_which_image_has_which_label():
    """Swapping two labels keeps both lists, and changes the data."""
    dataset = random_dataset()
    labels = dataset.labels.clone()
    labels[0], labels[1] = dataset.labels[1], dataset.labels[0]
    assert dataset.replace(labels=labels).fingerprint != dataset.fingerprint


def test_the_fingerprint_sees_the_shape_of_the_images():
    flat = torch.arange(64, dtype=torch.uint8)
    tall, wide = flat.view(1, 1, 16, 4), flat.view(1, 1, 4, 16)
    prints = {Dataset(pixels, torch.tensor([0]), ("a", "b")).fingerprint for pixels in (tall, wide)}
    assert len(prints) == 2


def test_a_repeated_row_counts():
    dataset = random_dataset(8)
    twice = dataset.subset(torch.tensor([*range(8), 0]))
    assert twice.fingerprint != dataset.fingerprint


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
)
def test_stratified_index_takes_the_share_of_every_class(labels, share, seed):
    tensor = torch.tensor(labels)
    wanted = {c: int(share * labels.count(c) + 0.5 + 1e-9) for c in set(labels)}
    if sum(wanted.values()) == 0:
        with pytest.raises(ConfigError, match=f"at least one of {len(labels)} samples"):
            stratified_index(tensor, share, seed, "test")
        return
    index = stratified_index(tensor, share, seed, "test")
    assert index.tolist() == sorted(set(index.tolist())), "sorted, without repetition"
    assert {c: tensor[index].tolist().count(c) for c in set(labels)} == wanted
    assert torch.equal(index, stratified_index(tensor, share, seed, "test"))


def test_stratified_index_rounds_as_written():
    """0.29 * 100 is 28.999999999999996 in floating point; 0.125 * 20 is 2.5 and goes up."""
    labels = torch.zeros(100, dtype=torch.long)
    assert len(stratified_index(labels, 0.29, 0, "test")) == 29
    assert len(stratified_index(labels[:20], 0.125, 0, "test")) == 3


def test_stratified_index_is_another_draw_for_another_seed_or_purpose():
    labels = torch.arange(400) % 4
    draws = {tuple(stratified_index(labels, 0.25, s, p).tolist()) for s in range(3) for p in ("a", "b")}
    assert len(draws) == 6


def test_take_keeps_all_classes_in_balance():
    part = take(random_dataset(100, classes=4), 20, 0)
    assert part.labels.bincount().tolist() == [5, 5, 5, 5]


def test_take_of_nothing_or_all_is_the_dataset_itself(noise):
    assert take(noise, None, 0) is noise
    assert take(noise, len(noise), 0) is noise


@pytest.mark.parametrize("size", [3, 65])
def test_take_refuses_less_than_a_sample_per_class_and_more_than_there_is(noise, size):
    with pytest.raises(ConfigError, match=rf"train_size from 4 \(one per class\) to 64.*got {size}"):
        take(noise, size, 0)


@pytest.mark.parametrize("name", ["fingerprint", "digest"])
def test_what_is_remembered_of_the_rows_is_computed_again_after_a_write(noise, name):
    before = getattr(noise, name)
    kept = noise.replace(name="other")
    assert getattr(kept, name) == before
    noise.images[0] += 1
    assert getattr(noise, name) != before
    assert getattr(kept, name) == getattr(noise, name), "they share their rows"
