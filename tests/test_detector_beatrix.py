"""Beatrix: Gram matrices, ranges and overshoots by hand; what is in memory; which class is suspected."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from planted import PixelModel, attack, no_training, planted
from torch import Tensor

from nab.detection import Beatrix, select_suspects
from nab.detection import beatrix as package
from nab.detection.beatrix import Bounds, deviate, discrepancy, fit_bounds, gram, native_cut, split_distance
from nab.errors import ConfigError, NabError
from nab.training import Context


def points(*values: float) -> Tensor:
    """Maps of one channel and one pixel."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


# Gram matrices.


def test_features_are_raised_to_the_power_before_they_are_multiplied():
    """F = [[1, 2], [3, 0]]: F F^T has 5, 3, 9 above its diagonal; squared entries give 17, 9, 81, and their roots.

    The roots of 5, 3 and 9, without the power before, are what BackdoorBench computes.
    """
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    torch.testing.assert_close(gram(maps, 1), torch.tensor([[5.0, 3.0, 9.0]]))
    torch.testing.assert_close(gram(maps, 2), torch.tensor([[17.0, 9.0, 81.0]]).sqrt())


def test_roots_keep_the_sign():
    """(-1)^3 x 2^3 = -8, of which the third root is -2."""
    torch.testing.assert_close(gram(torch.tensor([[[[-1.0]], [[2.0]]]]), 3), torch.tensor([[1.0, -2.0, 4.0]]))


def test_the_power_of_a_large_feature_is_no_overflow():
    """A single pixel has the same Gram matrix at all orders; 1000^16 is no float32."""
    torch.testing.assert_close(gram(points(1000.0, 0.0), 8), torch.tensor([[1e6], [0.0]]))


# Ranges.


def test_the_range_is_the_median_and_so_many_median_deviations():
    """Squares 1, 4, 9, 16, 100: median 9, deviations 8, 5, 0, 7, 91 of median 7."""
    bounds = fit_bounds(points(1, 2, 3, 4, 10), orders=2, width=2)
    for part, expected in ((bounds.low, -5.0), (bounds.high, 23.0), (bounds.low_unit, 5.0), (bounds.high_unit, 23.0)):
        torch.testing.assert_close(part, torch.tensor([[expected], [expected]]), rtol=1e-4, atol=1e-4)


def test_overshoots_are_parts_of_the_bound_and_averaged_over_entries_and_orders():
    """6^2 is 13 above 23, 1 is in the range; a second order whose range is 0 to 12 is passed by 24, twice its bound."""
    bounds = Bounds(
        *(torch.tensor(part) for part in ([[-5.0], [0.0]], [[23.0], [12.0]], [[5.0], [1.0]], [[23.0], [12.0]]))
    )
    deviations, features = deviate([points(6, 1), points(3)], bounds)
    torch.testing.assert_close(deviations, torch.tensor([(13 / 23 + 2) / 2, 0, 0]))
    assert features.flatten().tolist() == [6, 1, 3]


def test_an_entry_below_the_range_deviates_too():
    bounds = Bounds(*(torch.tensor([[value]]) for value in (20.0, 30.0, 20.0, 30.0)))
    torch.testing.assert_close(deviate([points(2.0)], bounds)[0], torch.tensor([16 / 20]))


def test_the_floor_keeps_pairs_that_are_never_on_from_deciding_alone():
    """Channel 1 is off in all verified samples: its entries have the range 0 to 0. The medians are 4, 0, 0; so half of
    their average is 2/3."""
    maps = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(5, 2, 1, 1)
    strict, floored = (fit_bounds(maps, 1, 10, floor) for floor in (0.0, 0.5))
    torch.testing.assert_close(strict.high_unit, torch.tensor([[4.0, 1e-6, 1e-6]]))
    torch.testing.assert_close(floored.high_unit, torch.tensor([[4.0, 2 / 3, 2 / 3]]))


def test_no_more_than_a_few_gram_matrices_are_in_memory_at_once(monkeypatch):
    """Four entries are one matrix of two channels, so that eleven samples come one by one; the answer is the same."""
    maps = torch.rand(11, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    bounds = fit_bounds(maps[:5], 3, 1.0)
    expected = deviate([maps], bounds)[0]
    sizes = []
    monkeypatch.setattr(package, "ENTRIES", 4)
    monkeypatch.setattr(package, "gram", lambda maps, order: sizes.append(len(maps)) or gram(maps, order))
    torch.testing.assert_close(deviate([maps[:6], maps[6:]], bounds)[0], expected)
    assert set(sizes) == {1}


def test_verified_samples_are_judged_by_the_other_folds():
    """Five samples, five folds: the range of the other four is their median, for the width is nearly zero."""
    maps = points(1, 1, 1, 1, 3)
    fit = functools.partial(fit_bounds, orders=1, width=1e-9)
    assert native_cut(maps, fit, 0.999) == pytest.approx(8, rel=0.01), "9 is 8 above 1"
    assert native_cut(maps, fit, 0.5) == pytest.approx(0, abs=1e-6)


# The statistic of a class.


def test_the_discrepancy_of_two_sets_by_hand():
    """{0, 2} and {1}: squared distances 4 and 1, whose median over all pairs, a point with itself included, is 1.

    k(0) = 2, k(1) = e^-1 + e^-2, k(4) = e^-4 + e^-8.
    """
    near, far = math.exp(-1) + math.exp(-2), math.exp(-4) + math.exp(-8)
    expected = (2 + far) / 2 + 2 - 2 * near
    one, other = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[1.0]]).double()
    assert discrepancy(one, other) == pytest.approx(expected)
    assert discrepancy(one, one) == pytest.approx(0)
    assert discrepancy(other, other) == 0, "all the same"


def test_the_statistic_of_a_class_weighs_the_discrepancy_with_the_sizes(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, is_suspicious = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([False, True, False])
    both = discrepancy(features[[0, 2]].double(), features[[1]].double())
    assert split_distance(features, is_suspicious, generator) == pytest.approx(2 / 3 * both)
    assert split_distance(features, torch.zeros(3, dtype=torch.bool), generator) == 0
    assert split_distance(features, torch.ones(3, dtype=torch.bool), generator) == 0
    sizes = []
    monkeypatch.setattr(package, "discrepancy", lambda one, other: sizes.append((len(one), len(other))) or 1.0)
    many = torch.arange(2000.0)[:, None]
    assert split_distance(many, torch.arange(2000) < 300, generator) == pytest.approx(300 * 500 / 800)
    assert sizes == [(300, 500)]


# The detector.


def verified(classes: int = 4, size: int = 20) -> Context:
    return Context(verified=planted(0, classes=classes, size=size, seed=1)[0])


def test_planted_samples_are_the_suspects(monkeypatch):
    dataset, is_poisoned = planted()
    attack(monkeypatch, PixelModel(4))
    context = verified()
    scores = Beatrix().score(dataset, context)
    assert torch.equal(select_suspects(scores, 0.05), is_poisoned)
    assert (scores[60:] == -math.inf).all()
    assert context.notes["beatrix_statistics"].argmax() == 0


def test_classes_are_those_that_the_model_predicts(monkeypatch):
    """The labels are moved on by one; what is found stays."""
    dataset, is_poisoned = planted()
    attack(monkeypatch, PixelModel(4))
    scores = Beatrix().score(dataset.replace(labels=(dataset.labels + 1) % 4), verified())
    assert torch.equal(select_suspects(scores, 0.05), is_poisoned)


def test_a_class_with_too_few_verified_samples_is_not_judged(monkeypatch):
    dataset, _ = planted()
    attack(monkeypatch, PixelModel(4))
    context = verified()
    index = torch.arange(16, 80)  # four are left of class 0
    context.notes.clear()
    context = Context(verified=context.verified.subset(index))
    scores = Beatrix().score(dataset, context)
    assert context.notes["beatrix_statistics"].isnan().tolist() == [True, False, False, False]
    assert (scores[:60] == -math.inf).all()


def test_every_setting_changes_the_scores(monkeypatch):
    """Two classes are poisoned; the class of the other has fewer, and is looked at if the threshold is low."""
    dataset, _ = planted(12, classes=6)
    images = dataset.images.clone().reshape(-1, 12, 4, 4)
    images[180:188, 10] += 60
    dataset = dataset.replace(images=images.reshape(-1, 3, 8, 8))
    attack(monkeypatch, PixelModel(6))
    plain = Beatrix().score(dataset, context := verified(6))
    for name, value in (("orders", 2), ("width", 0.5), ("floor", 2.0), ("threshold", 0.1)):
        assert not torch.equal(Beatrix(**{name: value}).score(dataset, verified(6)), plain), name
    other = verified(6)
    Beatrix(percentile=0.1).score(dataset, other)
    assert not torch.equal(other.notes["beatrix_statistics"], context.notes["beatrix_statistics"])


def test_verified_data_is_needed(monkeypatch):
    no_training(monkeypatch)
    with pytest.raises(ConfigError, match="detector 'beatrix' needs verified data"):
        Beatrix().score(planted()[0], Context())


def test_verified_data_that_no_class_has_enough_of_is_refused(monkeypatch):
    attack(monkeypatch, PixelModel(4))
    with pytest.raises(NabError, match="no class has 5 verified samples"):
        Beatrix().score(planted()[0], verified(size=4))


def test_a_network_that_diverged_is_named(monkeypatch):
    dataset = planted()[0]
    attack(monkeypatch, PixelModel(4, lambda maps: maps.where(maps < 160, math.nan)))
    with pytest.raises(NabError, match=r"finite features.*diverged"):
        Beatrix().score(dataset, verified())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"orders": 0}, "orders.*got 0"),
        ({"width": 0}, "width.*got 0"),
        ({"percentile": 1}, r"percentile in \(0, 1\), got 1"),
        ({"floor": -1}, "floor.*got -1"),
        ({"threshold": 0}, "threshold.*got 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Beatrix(**wrong)
