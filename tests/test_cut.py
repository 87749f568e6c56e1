"""From scores to suspects: the rate, the threshold, the automatic cut, and the gate of detectors that judge classes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nab.detection import automatic_cut, gate_classes, select_suspects
from nab.detection.gating import mad_index
from nab.errors import ConfigError, NabError

NEVER = -math.inf


def test_the_highest_scores_are_suspects():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2])
    assert select_suspects(scores, 0.4).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("rate", "count", "expected"),
    [(0.05, 50_000, 2_500), (0.29, 100, 29), (0.05, 39, 1), (0.05, 1438, 71), (0.999, 10, 9), (0.07, 100, 7)],
)
def test_the_number_of_suspects_is_the_floor_of_rate_times_count(rate, count, expected):
    """0.29 * 100 is 28.999999999999996 in floating point, and is 29."""
    assert int(select_suspects(torch.randn(count), rate).sum()) == expected


def test_ties_go_to_the_sample_that_stands_first():
    assert select_suspects(torch.ones(6), 0.5).tolist() == [True, True, True, False, False, False]
    scores = torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0])
    assert select_suspects(scores, 0.6).tolist() == [True, True, False, True, False]


@given(scores=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), rate=st.floats(0.01, 0.99))
def test_no_sample_that_is_left_out_is_more_suspicious_than_a_suspect(scores, rate):
    tensor = torch.tensor(scores)
    count = int(rate * len(scores) + 1e-9)
    if count == 0:
        with pytest.raises(ConfigError):
            select_suspects(tensor, rate)
        return
    is_suspect = select_suspects(tensor, rate)
    assert is_suspect.dtype == torch.bool
    assert is_suspect.sum() == count
    assert tensor[is_suspect].min() >= tensor[~is_suspect].max()
    last = int(is_suspect.nonzero()[tensor[is_suspect].argsort(stable=True)[0]])
    equals = (tensor == tensor[last]).nonzero().squeeze(1).tolist()
    flags = is_suspect[equals].tolist()
    assert flags == sorted(flags, reverse=True), "ties by index"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_its_sample(bad):
    with pytest.raises(NabError, match=r"finite suspicion scores.*sample 2.*diverged"):
        select_suspects(torch.tensor([0.0, 1.0, bad, bad]), 0.5)


def test_a_rate_that_selects_no_sample_is_refused():
    with pytest.raises(ConfigError, match=r"at least one of 10 samples, got 0\.05"):
        select_suspects(torch.randn(10), 0.05)


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ConfigError, match=rf"detection_rate in \(0, 1\), got {rate}"):
        select_suspects(torch.randn(10), rate)


# Samples that may never be suspected.


def test_samples_that_may_never_be_suspected_are_left_out_even_if_the_rate_asks_for_more():
    scores = torch.tensor([0.2, NEVER, 0.1, NEVER, NEVER])
    assert select_suspects(scores, 0.8).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("cut", [{"rate": 0.5}, {"rate": "auto"}, {"threshold": 0.0}])
def test_scores_by_which_no_sample_may_be_suspected_are_refused(cut):
    with pytest.raises(NabError, match="a sample that may be suspected, got 8 scores of minus infinity"):
        select_suspects(torch.full((8,), NEVER), **cut)


# The threshold.


def test_a_threshold_suspects_all_that_score_above_it_and_not_on_it():
    scores = torch.tensor([0.1, 0.9, 0.5, NEVER])
    assert select_suspects(scores, threshold=0.5).tolist() == [False, True, False, False]


def test_a_threshold_that_no_score_reaches_is_told_with_the_highest_score():
    with pytest.raises(ConfigError, match=r"some score is above, got 2; the highest is 0\.9"):
        select_suspects(torch.tensor([0.1, 0.9]), threshold=2)


@pytest.mark.parametrize(("rate", "threshold"), [(None, None), (0.1, 0.5), ("auto", 0.5)])
def test_a_rate_and_a_threshold_are_one_too_many_and_neither_is_one_too_few(rate, threshold):
    with pytest.raises(ConfigError, match="either a detection rate or a threshold"):
        select_suspects(torch.rand(50), rate, threshold=threshold)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises(ConfigError, match="detection_threshold"):
        select_suspects(torch.rand(50), threshold=threshold)


# The automatic cut.


def two_groups(low: int, high: int, distance: float = 12.0) -> torch.Tensor:
    """``low`` scores around 0, then ``high`` ones around ``distance``, in standard deviations."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randn(low, generator=generator), distance + torch.randn(high, generator=generator)])


@pytest.mark.parametrize("high", [15, 50, 300])
def test_the_automatic_cut_finds_the_group_that_stands_apart_whatever_its_size(high):
    is_suspect = automatic_cut(two_groups(700, high))
    assert is_suspect[:700].sum() == 0
    assert is_suspect[700:].all()


@pytest.mark.parametrize(("factor", "shift"), [(1e-4, 0.0), (1.0, -50.0), (300.0, 7.0)])
def test_the_automatic_cut_does_not_depend_on_the_unit(factor, shift):
    scores = two_groups(400, 40)
    assert torch.equal(automatic_cut(factor * scores + shift), automatic_cut(scores))


def test_the_automatic_cut_leaves_out_samples_that_are_never_suspected():
    scores = torch.cat([torch.full((900,), NEVER), two_groups(300, 30)])
    assert automatic_cut(scores).nonzero().squeeze(1).tolist() == [*range(1200, 1230)]


def test_a_score_far_above_the_upper_group_is_a_suspect_too():
    scores = torch.cat([two_groups(500, 40), torch.tensor([1e6])])
    assert automatic_cut(scores).nonzero().squeeze(1).tolist() == [*range(500, 541)]


def test_scores_of_one_group_have_no_gap():
    with pytest.raises(NabError, match="no group of suspects that stands apart: give a detection rate"):
        automatic_cut(two_groups(500, 0))


SHAPES = {
    "log-normal": lambda noise: noise.exp(),
    "squared": lambda noise: noise.square(),
    "uniform": lambda noise: torch.special.ndtr(noise),
    "exponential": lambda noise: -torch.special.ndtr(noise).log(),
    "heavy": lambda noise: noise / noise.flip(0).abs().sqrt(),
}


@pytest.mark.parametrize("size", [300, 4000])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_group_of_another_shape_than_the_normal_one_is_one_group(shape, size):
    """Two normal distributions fit each of these shapes better than one does."""
    for seed in range(5):
        noise = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with pytest.raises(NabError, match="no group of suspects"):
            automatic_cut(SHAPES[shape](noise))


def test_a_few_stragglers_are_no_group():
    with pytest.raises(NabError, match="no group of suspects"):
        automatic_cut(two_groups(1000, 8))


def test_ranks_within_a_class_are_no_groups():
    """The set is clean. One class is judged most suspicious, and half of its samples have ranks without a gap."""
    labels, scores = torch.arange(1000) % 5, torch.randn(1000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NabError, match="no group of suspects"):
        automatic_cut(gate_classes(scores, labels, torch.arange(5.0)))


def test_a_group_of_suspects_must_not_be_the_majority():
    with pytest.raises(NabError, match="no group of suspects"):
        automatic_cut(two_groups(200, 400))


def test_scores_that_are_all_the_same_show_no_groups():
    with pytest.raises(NabError, match="no group"):
        automatic_cut(torch.ones(100))


# The gate.

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
SCORES = torch.tensor([1.0, 4.0, 3.0, 2.0, 90.0, 80.0, 70.0, 60.0, 0.0, 5.0])


def test_without_flags_only_half_of_the_most_suspicious_class_may_be_suspected():
    gated = gate_classes(SCORES, LABELS, torch.tensor([9.0, 1.0, 2.0]))
    assert gated.argsort(descending=True)[:2].tolist() == [1, 2]
    assert gated.isfinite().nonzero().squeeze(1).tolist() == [1, 2]
    torch.testing.assert_close(gated[[1, 2]], torch.tensor([-0.2, -0.4]))


def test_flagged_classes_follow_in_the_order_of_their_statistic_whatever_their_scores():
    gated = gate_classes(SCORES, LABELS, torch.tensor([5.0, 4.0, 9.0]), torch.tensor([True, True, False]))
    assert gated.isfinite().nonzero().squeeze(1).tolist() == [1, 2, 4, 5, 9]
    assert gated.argsort(descending=True)[:5].tolist() == [9, 1, 2, 4, 5], "the top class counts though not flagged"


def test_a_class_that_could_not_be_judged_is_never_suspected():
    gated = gate_classes(SCORES, LABELS, torch.tensor([math.nan, 1.0, math.nan]), torch.tensor([True, True, True]))
    assert gated.isfinite().nonzero().squeeze(1).tolist() == [4, 5]


def test_no_class_that_could_be_judged_is_an_error():
    with pytest.raises(NabError, match="no class has samples enough to be judged"):
        gate_classes(SCORES, LABELS, torch.full((3,), math.nan))


def test_the_distance_from_the_median_is_in_robust_standard_deviations():
    """Median 3, deviations 2 1 0 1 97, their median 1."""
    index = mad_index(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0, math.nan]))
    torch.testing.assert_close(index[:5], torch.tensor([2.0, 1.0, 0.0, 1.0, 97.0]) / 1.4826)
    assert index[5].isnan()


def test_the_median_of_an_even_number_lies_between():
    torch.testing.assert_close(mad_index(torch.tensor([0.0, 2.0])), torch.tensor([1.0, 1.0]) / 1.4826)


def test_one_class_that_differs_from_all_equal_ones_is_infinitely_far():
    assert mad_index(torch.tensor([1.0, 1.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 0.0, math.inf]
