"""What a poisoned set tells by the order of its rows, and what attacks are built from."""

from __future__ import annotations

import bisect

import pytest
import torch
from helpers import marks, random_dataset

from nab.attacks import (
    BadNets,
    Blend,
    WaNet,
    draw_per_image,
    poison,
    to_uint8,
)
from nab.data import canonical_order
from nab.data.dataset import row_digests

# The order of the rows.


def outside_of_the_longest_increasing_run(digests: list[bytes]) -> torch.Tensor:
    """Rows that are no part of the longest increasing subsequence of their digests; bool, N."""
    ends: list[bytes] = []  # the smallest last digest of a subsequence of each length
    rows: list[int] = []  # the row of that digest
    before: list[int] = []  # the row before each row, in the longest subsequence that ends with it
    for row, digest in enumerate(digests):
        length = bisect.bisect_left(ends, digest)
        before.append(rows[length - 1] if length else -1)
        ends[length : length + 1], rows[length : length + 1] = [digest], [row]
    is_outside = torch.ones(len(digests), dtype=torch.bool)
    row = rows[-1]
    while row >= 0:
        is_outside[row] = False
        row = before[row]
    return is_outside


def share_of_poison(suspects: torch.Tensor, is_poisoned: torch.Tensor) -> tuple[float, float]:
    """What share of the suspects is poisoned, and by how many standard deviations that is more than by chance.

    By chance the number of poisoned suspects follows a hypergeometric distribution: as many are drawn as are suspected.
    """
    total, poisoned, drawn = len(suspects), int(is_poisoned.sum()), int(suspects.sum())
    rate = poisoned / total
    deviation = (drawn * rate * (1 - rate) * (total - drawn) / (total - 1)) ** 0.5
    hits = int((suspects & is_poisoned).sum())
    return hits / drawn, (hits - drawn * rate) / deviation


def test_the_longest_increasing_run_by_hand():
    """Of 2, 9, 3, 1, 5, 4, 7 the longest ones are 2, 3, 5, 7 and 2, 3, 4, 7."""
    is_outside = outside_of_the_longest_increasing_run([bytes([number]) for number in (2, 9, 3, 1, 5, 4, 7)])
    assert is_outside.tolist() in (
        [False, True, False, True, False, True, False],
        [False, True, False, True, True, False, False],
    )


@pytest.mark.parametrize("attack", [BadNets(), Blend(), WaNet()], ids=lambda attack: type(attack).__name__)
def test_the_order_of_the_rows_does_not_tell_the_poison(attack):
    """A clean set is sorted by its rows' digests before it is poisoned. A changed row has another digest, so it stands
    out of the order, unless the rows are shuffled."""
    clean = canonical_order(random_dataset(1000, 16))
    found = poison(clean, attack, rate=0.1, target=0, seed=0)
    is_poisoned, _, origin = marks(found.truth)

    def suspects(order: torch.Tensor) -> torch.Tensor:
        rows = found.dataset.subset(order)
        return outside_of_the_longest_increasing_run(row_digests(rows.images, rows.labels))

    precision, deviations = share_of_poison(suspects(torch.arange(1000)), is_poisoned)
    assert deviations < 3, f"{precision:.1%} of the suspects are poisoned"

    unshuffled = origin.argsort()
    leaked = suspects(unshuffled)
    _, deviations = share_of_poison(leaked, is_poisoned[unshuffled])
    assert deviations > 10, "the test would not notice rows that are not shuffled"
    assert leaked[is_poisoned[unshuffled]].float().mean() > 0.9


# What attacks are built from.


def test_pixels_are_clamped_then_rounded_once():
    given = torch.tensor([-3.0, 0.4, 0.5, 254.4, 254.5, 300.0])
    assert to_uint8(given).tolist() == [0, 0, 1, 254, 255, 255]


def test_a_draw_depends_on_image_seed_and_purpose_alone():
    images = random_dataset(80, 32).images[:4]

    def draw(images, seed=0, purpose="tests"):
        return draw_per_image(images, seed, purpose, lambda generator: torch.rand(3, generator=generator))

    drawn = draw(images)
    assert drawn.shape == (4, 3)
    assert drawn.unique(dim=0).shape == (4, 3), "two images share a draw"
    assert torch.equal(draw(images.flip(0)), drawn.flip(0))
    assert torch.equal(draw(images[::2]), drawn[::2])
    assert not torch.equal(draw(images, seed=1), drawn)
    assert not torch.equal(draw(images, purpose="other tests"), drawn)
