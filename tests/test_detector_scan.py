"""SCAn: the model of classes, the two groups of a class, and which of them is suspected."""

from __future__ import annotations

import math

import pytest
import torch
from planted import PixelModel, given_around, planted
from torch import Tensor

from nab.detection import SCAn, select_suspects
from nab.detection.latent import stands_out
from nab.detection.scan import class_mean, fit_variation, scan_scores
from nab.errors import ConfigError, NabError
from nab.training import Trainer

# The model of classes.


def spd(seed: int) -> Tensor:
    """Some positive definite 3 x 3 matrix."""
    root = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(3, dtype=torch.float64)


def test_a_class_mean_is_shrunk_by_the_variation_within():
    """S_u = 4, S_e = 1, two samples of sum 6: 4 / (2 x 4 + 1) x 6 = 24 / 9, less than their mean of 3."""
    one, four, six = (torch.tensor([[value]]).double() for value in (1.0, 4.0, 6.0))
    torch.testing.assert_close(class_mean(six[0], 2, four, one), torch.tensor([24 / 9]).double())


def test_a_class_mean_is_the_papers_expression_with_both_factors():
    between, within, total = spd(0), spd(1), torch.tensor([1.0, 2.0, 3.0]).double()
    inverse = torch.linalg.inv(7 * between + within)
    expected = within @ inverse @ between @ torch.linalg.inv(within) @ total
    torch.testing.assert_close(class_mean(total, 7, between, within), expected)


def test_a_class_mean_tends_to_the_mean_of_many_samples():
    """The ports leave out the factor S_u S_e^-1 for a class that is inspected, and their mean does not."""
    total = 1e6 * torch.tensor([1.0, 2.0, 3.0]).double()
    torch.testing.assert_close(class_mean(total, 10**6, spd(0), spd(1)), total / 1e6, rtol=1e-4, atol=1e-4)


def test_the_variation_between_and_within_classes_is_learned():
    """40 classes of 25 samples, with deviations 5 and 1 between and 1 and 2 within; and one class that has none."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 40
    means = torch.randn(40, 2, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    values = means[labels] + torch.randn(1000, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0])
    between, within = fit_variation(values - values.mean(0), labels, 41)
    torch.testing.assert_close(within.diag(), torch.tensor([1.0, 4.0]).double(), rtol=0.1, atol=0)
    torch.testing.assert_close(between.diag(), torch.tensor([25.0, 1.0]).double(), rtol=0.4, atol=0)
    assert abs(float(within[0, 1])) < 0.2


# The groups of a class.


def case(poisoned: int, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes of ``size`` in 6 dimensions, with ``poisoned`` samples of class 1 in a group of their own; and 10
    verified samples of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels, known = torch.arange(3).repeat_interleave(size), torch.arange(3).repeat_interleave(10)
    means = 10 * torch.randn(3, 6, generator=generator)
    features, verified = (means[of] + torch.randn(len(of), 6, generator=generator) for of in (labels, known))
    features[size : size + poisoned] += 12 * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]) / math.sqrt(6)
    return features, labels, verified, known


def test_a_class_of_two_groups_stands_out_and_its_poison_scores_above_its_clean_samples():
    scores, statistics = scan_scores(*case(10), num_classes=3)
    assert int(statistics.argmax()) == 1
    assert statistics[1] > 3 * statistics[[0, 2]].max()
    assert scores[40:50].min() > scores[50:80].max()
    assert scores.dtype == torch.float32


def test_the_group_with_fewer_verified_samples_is_suspected_also_if_it_is_the_larger():
    scores, statistics = scan_scores(*case(30), num_classes=3)
    assert int(statistics.argmax()) == 1
    assert scores[40:70].min() > scores[70:80].max()


def test_the_smaller_group_is_suspected_if_nothing_was_verified_in_the_class():
    features, labels, verified, known = case(10)
    scores, _ = scan_scores(features, labels, verified[known != 1], known[known != 1], 3)
    assert scores[40:50].min() > scores[50:80].max()


def test_the_statistic_is_the_papers():
    """J = [n1 (m'Fm - u1'Fu1) + n2 (m'Fm - u2'Fu2) - 2 sum x'F (m - u)] / n, from groups that are known here."""
    features, labels, verified, known = case(10)
    _, statistics = scan_scores(features, labels, verified, known, 3)
    center = verified.double().mean(0)
    between, within = fit_variation(verified.double() - center, known, 3)
    inverse, own = torch.linalg.inv(within), features[40:80].double() - center
    mean = 40 * between @ torch.linalg.inv(40 * between + within) @ own.mean(0)
    groups = (own[:10], own[10:])
    total = sum(
        len(group) * (mean @ inverse @ mean - group.mean(0) @ inverse @ group.mean(0))
        - 2 * (group @ inverse @ (mean - group.mean(0))).sum()
        for group in groups
    )
    assert float(statistics[1]) == pytest.approx(float(total) / 40, rel=1e-4)
    scores, _ = scan_scores(features, labels, verified, known, 3)
    expected = 2 * own @ inverse @ (groups[0].mean(0) - groups[1].mean(0))
    torch.testing.assert_close(scores[40:80].double(), expected, rtol=1e-4, atol=1e-3)


def test_components_are_no_more_than_half_of_what_the_verified_samples_allow():
    """12 verified samples of 2 classes leave 10, so 5 components; from one sample more than that on nothing changes."""
    features, labels, verified, known = case(10)
    few = torch.tensor([0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15])
    found = [scan_scores(features, labels, verified[few], known[few], 3, components=count)[0] for count in (4, 5, 6)]
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


# Which classes are suspected.


def test_a_class_far_below_the_median_is_not_flagged():
    """The median is 5 and the median deviation is 0.1. 9 lies 27 robust deviations above, and 0.1 lies 33 below."""
    statistics = torch.tensor([5.0, 5.1, 4.9, 9.0, 0.1, 5.0, math.nan, 5.1, 4.9])
    assert stands_out(statistics, math.e**2).nonzero().flatten().tolist() == [3]
    assert stands_out(statistics, 30).sum() == 0


def test_planted_samples_are_the_suspects():
    dataset, is_poisoned = planted()
    given = given_around(PixelModel(4), verified=planted(0, size=15, seed=1)[0])
    found = SCAn().score(dataset, Trainer(), given)
    assert torch.equal(select_suspects(found.scores, 0.05), is_poisoned)
    assert (found.scores[60:] == -math.inf).all()
    assert found.notes["statistics"].argmax() == 0


def test_a_lower_threshold_suspects_more_classes():
    """Class 0 has 20 samples in a group of its own, class 3 has 10 nearer by; four classes have none."""
    dataset, _ = planted(20, classes=6)
    images = dataset.images.clone().reshape(-1, 12, 4, 4)
    images[180:190, 10] += 45
    dataset = dataset.replace(images=images.reshape(-1, 3, 8, 8))
    given = given_around(PixelModel(6), verified=planted(0, classes=6, size=15, seed=1)[0])
    counts = [
        int((SCAn(threshold=threshold).score(dataset, Trainer(), given).scores.reshape(6, 60) > -math.inf).any(1).sum())
        for threshold in (1e6, 0.1)
    ]
    assert counts[0] == 1
    assert counts[1] >= 2


# What is refused.


@pytest.mark.parametrize(("kept", "told"), [(range(10), "got 10 of 1"), ([0, 1, 10, 11, 20], "got 5 of 3")])
def test_too_few_verified_samples_are_refused(kept, told):
    features, labels, verified, known = case(10)
    index = torch.tensor(list(kept))
    with pytest.raises(NabError, match=f"at least 4 more samples than classes, {told}"):
        scan_scores(features, labels, verified[index], known[index], 3)


def test_features_that_are_no_numbers_or_never_vary_are_refused():
    features, labels, verified, known = case(10)
    with pytest.raises(NabError, match="differ between samples"):
        scan_scores(torch.ones_like(features), labels, verified, known, 3)
    features[4, 2] = math.nan
    with pytest.raises(NabError, match="got others for sample 4"):
        scan_scores(features, labels, verified, known, 3)
    verified[6, 0] = math.inf
    with pytest.raises(NabError, match="got others for verified sample 6"):
        scan_scores(case(10)[0], labels, verified, known, 3)


@pytest.mark.parametrize(("wrong", "told"), [({"components": 0}, "components.*got 0"), ({"threshold": 0}, "threshold")])
def test_settings_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        SCAn(**wrong)
