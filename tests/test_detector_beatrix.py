"""Beatrix: Gram matrices, ranges and overshoots by hand; what is in memory; which class is suspected."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from planted import PixelModel, given_around, planted
from torch import Tensor

from nab.detection import Beatrix, select_suspects
from nab.detection import beatrix as package
from nab.detection.beatrix import Bounds, deviate, discrepancy, fit_bounds, gram, inner_maps, native_cut, split_distance
from nab.errors import ConfigError, NabError
from nab.needs import Given
from nab.training import Trainer


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


@pytest.mark.parametrize(("percentile", "expected"), [(0.19, 0.0), (0.5, 20.0), (0.95, 40.0)])
def test_the_native_threshold_is_one_of_the_deviations(percentile, expected, monkeypatch):
    """Of five in rising order, those at the places 0, 2 and 4: nothing lies between, as in the authors' code."""
    deviations = iter([30.0, 10.0, 40.0, 0.0, 20.0])
    monkeypatch.setattr(package, "deviate", lambda *_: (torch.tensor([next(deviations)]), None))
    fit = functools.partial(fit_bounds, orders=1, width=1.0)
    assert native_cut(points(1, 2, 3, 4, 5), fit, percentile) == expected


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


# The maps.


def test_the_maps_are_those_that_enter_the_last_block():
    """The 4 x 4 maps are the pixels; what leaves the last block is 2 x 2."""
    dataset, _ = planted()
    predictor = given_around(PixelModel(4)).require_attacked().predictor
    (maps,) = inner_maps(predictor, dataset.images)
    assert torch.equal(maps, dataset.images.reshape(-1, 12, 4, 4).float())
    assert not predictor.network.blocks["average"]._forward_pre_hooks, "the network is left as it was"


def test_a_network_of_one_block_has_only_the_maps_that_leave_it():
    class OneBlock(PixelModel):
        def maps(self, images: Tensor) -> Tensor:
            return images[:, :, :2]

    network = OneBlock(4)
    del network.blocks["unfold"]
    dataset, _ = planted()
    (maps,) = inner_maps(given_around(network).require_attacked().predictor, dataset.images)
    assert torch.equal(maps, dataset.images[:, :, :2].float())


# The detector.


def given(classes: int = 4, size: int = 20) -> Given:
    """The pixel model, and ``size`` verified images of each class."""
    return given_around(PixelModel(classes), verified=planted(0, classes=classes, size=size, seed=1)[0])


def test_planted_samples_are_the_suspects():
    dataset, is_poisoned = planted()
    found = Beatrix().score(dataset, Trainer(), given())
    assert torch.equal(select_suspects(found.scores, 0.05), is_poisoned)
    assert (found.scores[60:] == -math.inf).all()
    assert found.notes["statistics"].argmax() == 0


def test_classes_are_those_that_the_model_predicts():
    """The labels are moved on by one; what is found stays."""
    dataset, is_poisoned = planted()
    found = Beatrix().score(dataset.replace(labels=(dataset.labels + 1) % 4), Trainer(), given())
    assert torch.equal(select_suspects(found.scores, 0.05), is_poisoned)


def test_a_class_with_too_few_verified_samples_is_not_judged():
    dataset, _ = planted()
    verified = given().require_verified().subset(torch.arange(16, 80))  # four are left of class 0
    found = Beatrix().score(dataset, Trainer(), given_around(PixelModel(4), verified=verified))
    assert found.notes["statistics"].isnan().tolist() == [True, False, False, False]
    assert (found.scores[:60] == -math.inf).all()


@pytest.mark.parametrize(("samples", "expected"), [(5, 5), (12, 12), (30, 20)])
def test_a_range_is_learned_from_so_many_verified_samples_or_from_all_if_there_are_fewer(
    samples, expected, monkeypatch
):
    seen = []
    monkeypatch.setattr(package, "native_cut", lambda maps, *_: seen.append(len(maps)) or 1.0)
    Beatrix(samples=samples).score(planted()[0], Trainer(), given(size=20))
    assert seen == [expected] * 4


def test_every_setting_changes_the_scores():
    """Two classes are poisoned; the second one has less poison and is suspected if the threshold is low."""
    dataset, _ = planted(12, classes=6)
    images = dataset.images.clone().reshape(-1, 12, 4, 4)
    images[180:188, 10] += 60
    dataset = dataset.replace(images=images.reshape(-1, 3, 8, 8))
    plain = Beatrix().score(dataset, Trainer(), given(6))
    others: dict[str, Any] = {"orders": 2, "width": 0.5, "floor": 2.0, "threshold": 0.1, "samples": 10}
    for name, value in others.items():
        found = Beatrix(**{name: value}).score(dataset, Trainer(), given(6))
        assert not torch.equal(found.scores, plain.scores), name
    other = Beatrix(percentile=0.1).score(dataset, Trainer(), given(6))
    assert not torch.equal(other.notes["statistics"], plain.notes["statistics"])


def test_verified_data_that_no_class_has_enough_of_is_refused():
    with pytest.raises(NabError, match="no class has 5 verified samples"):
        Beatrix().score(planted()[0], Trainer(), given(size=4))


def test_a_network_that_diverged_is_named():
    network = PixelModel(4, lambda maps: maps.where(maps < 160, math.nan))
    with pytest.raises(NabError, match=r"finite features.*diverged"):
        Beatrix().score(planted()[0], Trainer(), given_around(network, verified=given().verified))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"orders": 0}, "orders.*got 0"),
        ({"width": 0}, "width.*got 0"),
        ({"percentile": 1}, r"percentile in \(0, 1\), got 1"),
        ({"floor": -1}, "floor.*got -1"),
        ({"threshold": 0}, "threshold.*got 0"),
        ({"samples": 4}, "samples to be a whole number from 5.*got 4"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Beatrix(**wrong)
