"""SPECTRE: quantum entropy by hand, the covariance filter piece by piece, and poison that hides in little variance."""

from __future__ import annotations

import math

import pytest
import torch
from planted import PixelModel, given_around, planted
from torch import Tensor

from nab.detection import SPECTRE, select_suspects
from nab.detection import robust as package
from nab.detection.robust import Tail, _removed, filter_covariance, top_fourth_moment
from nab.detection.spectral_signatures import spectral_scores
from nab.detection.spectre import budget, dimensions, quantum_entropy, spectre_scores
from nab.errors import ConfigError, NabError
from nab.evaluation import auroc
from nab.training import Trainer

# Quantum entropy.


def tilted() -> Tensor:
    """Four points on the diagonals whose covariance is [[2, 1], [1, 2]], of eigenvalues 3 and 1."""
    one, other = math.sqrt(4.5 / 2), math.sqrt(1.5 / 2)
    return torch.tensor([[one, one], [-one, -one], [other, -other], [-other, other]]).double()


def test_the_exponential_of_a_score_is_that_of_a_matrix_and_not_of_its_entries():
    """Q is expm(2 [[1, 1], [1, 1]]) of trace 1: tanh(2) / 2 beside the diagonal of 1/2, where entry by entry gives 1/2.

    So (c, -c) has the score (1 - tanh(2)) c^2, and not 0, and (c, c) has (1 + tanh(2)) c^2.
    """
    scores, entropy = quantum_entropy(tilted(), alpha=4)
    low, high = (1 - math.tanh(2)) * 0.75, (1 + math.tanh(2)) * 2.25
    torch.testing.assert_close(scores, torch.tensor([high, high, low, low]).double())
    assert entropy == pytest.approx((3 * math.exp(4) + 1) / (math.exp(4) + 1)), "the trace of S Q"


def test_alpha_weighs_all_directions_alike_or_the_strongest_alone():
    torch.testing.assert_close(quantum_entropy(tilted(), 0)[0], tilted().square().sum(1) / 2)
    torch.testing.assert_close(quantum_entropy(tilted(), 500)[0], torch.tensor([4.5, 4.5, 0, 0]).double())


def test_a_covariance_of_one_weighs_all_directions_alike():
    """|S| - 1 is then zero, and the quotient has no meaning."""
    points = math.sqrt(1.5) * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double()
    scores, entropy = quantum_entropy(points, alpha=4)
    torch.testing.assert_close(scores, torch.full((4,), 0.75).double())
    assert entropy == pytest.approx(1)


# The budget.


@pytest.mark.parametrize(
    ("size", "poisoned", "expected"),
    [
        (5000, 500, 500),  # as asked for
        (5000, 2500, 1650),  # at most 0.33 of the class
        (5000, 0, 500),  # a tenth if nothing is asked for
        (400, 30, 30),  # a small class: as asked for,
        (400, 60, 40),  # but at most a tenth
        (500, 60, 60),  # 500 is not small
    ],
)
def test_the_budget_of_a_class(size, poisoned, expected):
    assert budget(size, poisoned) == pytest.approx(expected)


def test_the_numbers_of_components_that_are_tried_have_evenly_spaced_roots():
    assert dimensions(64) == [1, 4, 9, 16, 25, 36, 49, 64]
    assert dimensions(6) == [1, 3, 6], "roots 1, 1.72 and 2.45"
    assert dimensions(1) == [1]


# The filter.


def test_the_form_that_varies_most_is_the_first_eigenvector_of_the_fourth_moments():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    values[:30] *= torch.tensor([4.0, 1.0, 1.0])
    values = values @ torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    factor = torch.linalg.cholesky(values.T @ values / 300)
    whitened = torch.linalg.solve_triangular(factor, values.T, upper=False).T
    products = torch.stack([torch.kron(row, row) for row in whitened])
    identity = torch.eye(3, dtype=torch.float64).flatten()
    moments = products.T @ products / 300 - torch.outer(identity, identity)
    expected = torch.linalg.eigh(moments)
    for start in (None, torch.eye(3, dtype=torch.float64)):
        variance, form = top_fourth_moment(whitened, start)
        assert variance == pytest.approx(float(expected.eigenvalues[-1]), rel=0.01)
        assert abs(float(form.flatten() @ expected.eigenvectors[:, -1])) > 0.98
        assert float(form.norm()) == pytest.approx(1)


def test_the_fourth_moment_of_normal_data_is_2():
    normal = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert top_fourth_moment(normal)[0] == pytest.approx(2, rel=0.15)


def test_the_filter_reads_the_mass_that_remains_beyond_a_value():
    """Of ten samples at most, with a share of 0.1: 10 ln 10 = 23.03 has to be passed by 3 before the tail counts."""
    far = torch.tensor([0.0] * 8 + [10.0, 40.0])
    assert _removed(far, 0.1, "remaining") == 1, "0.1 beyond 37, where normal data would have 0.00002"
    one = torch.cat([torch.zeros(99_999), torch.tensor([27.1])])
    assert _removed(one, 0.1, "remaining") == 0, "0.00001 beyond 24.1, where normal data would have 0.00005"
    near = torch.tensor([0.0] * 8 + [9.0, 10.0])
    assert _removed(near, 0.1, "remaining") == 0, "up to 23 normal data may have all"


def test_the_other_reading_always_takes_the_outermost_samples():
    """10 - 3 = 7 has been passed by all ten samples, two of which lie above 7."""
    assert _removed(torch.tensor([0.0] * 8 + [9.0, 10.0]), 0.1, "passed") == 2
    assert _removed(torch.tensor([0.0] * 8 + [2.0, 3.0]), 0.1, "passed") == 0, "nothing lies beyond 3"


def contaminated() -> tuple[Tensor, Tensor]:
    """500 normal samples, of which the first 5 are moved far along one axis; who is clean."""
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:5, 2] = values[:5, 2] / 10 + 40
    return values - values.mean(0), torch.arange(500) >= 5


def test_the_filter_removes_what_normal_data_would_not_have():
    values, is_clean = contaminated()
    is_kept = filter_covariance(values, 0.05, 50)
    assert not is_kept[~is_clean].any()
    assert is_kept[is_clean].double().mean() > 0.95
    naive, robust = (torch.cov(part.T)[2, 2] for part in (values, values[is_kept]))
    assert naive > 10
    assert float(robust) == pytest.approx(1, abs=0.15)


def test_the_filter_removes_no_more_than_the_limit():
    values, is_clean = contaminated()
    is_kept = filter_covariance(values, 0.05, 3)
    assert int((~is_kept).sum()) == 3
    assert not (~is_kept & is_clean).any()
    assert filter_covariance(values, 0.05, 0).all()


def test_the_filter_leaves_normal_data_alone():
    assert filter_covariance(contaminated()[0][5:], 0.05, 50).all()


def test_a_sample_of_huge_norm_goes_first(monkeypatch):
    """10 d ln(n / 0.1) is 340 for 4 dimensions and 500 samples; whitening leaves the one nearly 500."""
    monkeypatch.setattr(package, "top_fourth_moment", lambda whitened, form: (0.0, form))
    values = contaminated()[0]
    values[:5, 2] = 0
    values[77] = 1e4
    assert (~filter_covariance(values, 0.05, 50)).nonzero().flatten().tolist() == [77]


def test_the_filter_computes_the_fourth_moment_a_bounded_number_of_times(monkeypatch):
    """Twenty rounds remove one sample each, as they are told; then a twentieth of the limit goes, 16 times 5."""
    calls = []
    form = torch.eye(4, dtype=torch.float64) / 2
    monkeypatch.setattr(package, "top_fourth_moment", lambda *_: calls.append(1) or (1e9, form))
    monkeypatch.setattr(package, "_removed", lambda *_: 1)
    assert int((~filter_covariance(contaminated()[0], 0.05, 100)).sum()) == 100
    assert len(calls) == 20 + 16


def test_the_filter_removes_no_more_than_its_test_names(monkeypatch):
    """A round names three samples, and the next round finds nothing; a twentieth of the limit would be five."""
    moments = iter([1e9, 0.0])
    form = torch.eye(4, dtype=torch.float64) / 2
    monkeypatch.setattr(package, "top_fourth_moment", lambda *_: (next(moments), form))
    monkeypatch.setattr(package, "_removed", lambda *_: 3)
    assert int((~filter_covariance(contaminated()[0], 0.05, 100)).sum()) == 3


# The detector.


def hidden(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes of 200; 15 samples of class 0 are moved along the axis of least variance, by twenty deviations."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(400, 6, generator=generator) * torch.tensor([20.0, 10, 5, 2, 1, 0.3])
    features[:15, 5] += 6
    return features, (torch.arange(400) >= 200).long(), torch.arange(400) < 15


def test_poison_in_a_direction_of_little_variance_is_found_where_the_first_axis_does_not_see_it():
    """It is too large a share for the filter's tail test; the other reading of that test removes it all the same."""
    features, labels, is_poisoned = hidden()
    least: dict[Tail, int] = {"remaining": 95, "passed": 100}
    for tail in least:
        scores, statistics = spectre_scores(features, labels, 2, tail=tail)
        assert int(statistics.argmax()) == 0
        assert scores.dtype == torch.float32
        assert auroc(scores[:200], is_poisoned[:200]) >= least[tail]
    blind, _ = spectral_scores(features, labels, 2)
    assert auroc(blind[:200], is_poisoned[:200]) < 70


def test_every_setting_changes_the_scores():
    features, labels, _ = hidden()
    features = torch.cat([features, features * torch.randn(400, 6, generator=torch.Generator().manual_seed(1)) ** 5], 1)
    plain, _ = spectre_scores(features, labels, 2)
    for change in ({"rate": 0.005}, {"components": 4}, {"alpha": 1.0}, {"tail": "passed"}):
        assert not torch.equal(spectre_scores(features, labels, 2, **change)[0], plain), change


def test_planted_samples_are_the_suspects():
    dataset, is_poisoned = planted(6)
    found = SPECTRE().score(dataset, Trainer(), given_around(PixelModel(4)))
    assert torch.equal(select_suspects(found.scores, 6 / 240), is_poisoned)
    assert (found.scores[60:] == -math.inf).all(), "one class is suspected, that of largest QUE"
    assert found.notes["statistics"].argmax() == 0


def test_a_class_of_few_or_equal_samples_is_not_judged():
    features, labels, _ = hidden()
    labels[-7:] = 2
    labels[-27:-7] = 3
    features[labels == 3] = 1
    scores, statistics = spectre_scores(features, labels, 4)
    assert statistics.isnan().tolist() == [False, False, True, True]
    assert scores.isfinite().all()


def test_channels_that_are_always_off_do_no_harm():
    features, labels, _ = hidden()
    scores, statistics = spectre_scores(features, labels, 2)
    more = torch.cat([features, torch.zeros(400, 3)], 1)
    for found, expected in zip(spectre_scores(more, labels, 2), (scores, statistics), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rate": 0}, r"rate in \(0, 1\), got 0"),
        ({"rate": 1}, "rate.*got 1"),
        ({"components": 0}, "components.*got 0"),
        ({"alpha": -1}, "alpha.*got -1"),
        ({"tail": "both"}, "tail to be one of remaining, passed, got 'both'"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        SPECTRE(**wrong)


def test_features_that_are_no_numbers_name_their_sample():
    features, labels, _ = hidden()
    features[5, 1] = math.nan
    with pytest.raises(NabError, match=r"finite features.*sample 5"):
        spectre_scores(features, labels, 2)


def test_a_small_clean_class_does_not_hide_a_large_poisoned_one():
    """QUE alone is larger for 60 normal samples than for 1,500 of which a tenth lies apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate((1500, 800, 300, 150, 60))])
    features = torch.randn(len(labels), 32, generator=generator)
    features[:150, 0] += 8.0
    scores, statistics = spectre_scores(features, labels, 5)
    assert int(statistics.argmax()) == 0
    assert (statistics[1:] < 0.6 * statistics[0]).all(), "normal samples have a statistic of about one"
    top = scores[:1500].argsort(descending=True)[:150]
    assert (top < 150).float().mean() > 0.9
