"""Activation clustering: distances, shares and silhouettes, by hand on points in two heaps."""

from __future__ import annotations

import math

import pytest
import torch
from planted import PixelModel, given_around, planted
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from torch import Tensor

from nab.detection import ActivationClustering, select_suspects
from nab.detection.activation_clustering import cluster_scores
from nab.detection.latent import two_means
from nab.errors import ConfigError, NabError
from nab.training import Trainer


def heaps() -> tuple[Tensor, Tensor]:
    """Class 0: eight points at 0 and two at 10; class 1: six at 0 and four at 10."""
    first = [0.0] * 8 + [10.0] * 2 + [0.0] * 6 + [10.0] * 4
    return torch.tensor([[value, 0.0] for value in first]), torch.tensor([0] * 10 + [1] * 10)


def test_the_score_is_the_distance_to_the_larger_cluster_less_that_to_the_smaller():
    scores, _, _ = cluster_scores(*heaps(), num_classes=2, is_whitened=False)
    torch.testing.assert_close(scores, torch.tensor([-10.0] * 8 + [10.0] * 2 + [-10.0] * 6 + [10.0] * 4))


def test_whitening_divides_by_the_standard_deviation():
    """Class 0 has the variance (8 x 2^2 + 2 x 8^2) / 9 = 160 / 9, class 1 (6 x 4^2 + 4 x 6^2) / 9 = 240 / 9."""
    scores, _, _ = cluster_scores(*heaps(), num_classes=2)
    one, other = 10 / math.sqrt(160 / 9), 10 / math.sqrt(240 / 9)
    torch.testing.assert_close(scores, torch.tensor([-one] * 8 + [one] * 2 + [-other] * 6 + [other] * 4))


def test_shares_and_silhouettes_are_those_of_the_smaller_cluster_and_of_points_in_two_heaps():
    _, shares, silhouettes = cluster_scores(*heaps(), num_classes=3)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.4, math.nan]), equal_nan=True)
    torch.testing.assert_close(silhouettes, torch.tensor([1.0, 1.0, math.nan]), equal_nan=True)


def test_independent_components_give_the_clusters_of_whitened_principal_components():
    """2-means does not see the rotation between them, so the detector seeks no independent components."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(200, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    features[:40] += 3 * torch.randn(8, generator=generator)
    labels = torch.zeros(200, dtype=torch.long)
    labels[-20:] = 1
    scores, _, _ = cluster_scores(features, labels, 2, components=4)
    independent = FastICA(4, whiten="unit-variance", tol=0.1, random_state=0).fit_transform(
        features[:180].double().numpy()
    )
    theirs = torch.from_numpy(KMeans(2, n_init=10, random_state=0).fit_predict(independent)) == 1
    ours = scores[:180] > 0
    assert 0 < int(ours.sum()) <= 90
    assert torch.equal(ours, theirs) or torch.equal(ours, ~theirs)


def test_equal_clusters_leave_the_first_sample_in_the_one_that_is_not_suspected():
    values = torch.tensor([0.0, 9.0, 0.0, 9.0]).double()[:, None]
    for seed in range(5):
        is_small, centers = two_means(values, seed)
        assert is_small.tolist() == [False, True, False, True]
        assert centers[:, 0].tolist() == [0.0, 9.0]


@pytest.mark.parametrize("statistic", ["size", "silhouette"])
def test_planted_samples_are_the_suspects(statistic):
    dataset, is_poisoned = planted()
    detector = ActivationClustering(statistic=statistic, components=2)
    found = detector.score(dataset, Trainer(), given_around(PixelModel(4)))
    assert torch.equal(select_suspects(found.scores, 0.05), is_poisoned)
    assert float(found.notes["shares"][0]) == pytest.approx(0.2)


def spread() -> tuple[Tensor, Tensor]:
    """Class 0: 12 points and 4, in tight heaps; class 1: 14 and 2, in wide ones; class 2: 9 and 7."""
    wide = [*torch.linspace(-3, 3, 14).tolist(), 6.0, 12.0]
    first = [0.0] * 12 + [10.0] * 4 + wide + [0.0] * 9 + [10.0] * 7
    return torch.tensor([[value, 0.0] for value in first]), torch.arange(3).repeat_interleave(16)


class Known(PixelModel):
    """Its features are given, whatever the images."""

    def __init__(self, features: Tensor) -> None:
        super().__init__(3)
        self.known = features

    def features(self, images: Tensor) -> Tensor:
        return self.known


def test_the_statistic_chooses_the_class_that_comes_first():
    """Class 1 has the smaller cluster, class 0 the clusters that stand further apart; class 2 is never suspected."""
    features, labels = spread()
    dataset = planted(classes=3, size=16)[0].replace(labels=labels)
    firsts = {"size": 1, "silhouette": 0}
    for statistic, first in firsts.items():
        scores = (
            ActivationClustering(statistic=statistic).score(dataset, Trainer(), given_around(Known(features))).scores
        )
        assert int(labels[scores.argmax()]) == first
        assert (scores[labels == 1 - first] > -math.inf).any(), "flagged as well"
        assert (scores[labels == 2] == -math.inf).all()


def test_only_clusters_below_the_largest_share_are_suspected():
    """The shares are 4/16, 2/16 and 7/16."""
    features, labels = spread()
    dataset = planted(classes=3, size=16)[0].replace(labels=labels)
    for share, suspected in ((0.2, [1]), (0.35, [0, 1]), (0.5, [0, 1, 2])):
        found = ActivationClustering(largest_share=share).score(dataset, Trainer(), given_around(Known(features)))
        assert labels[found.scores > -math.inf].unique().tolist() == suspected


def test_the_silhouette_of_a_large_class_is_taken_from_a_thousand_samples(monkeypatch):
    sizes = []
    monkeypatch.setattr("sklearn.metrics.silhouette_score", lambda values, _: sizes.append(len(values)) or 0.5)
    features = torch.randn(3010, 2, generator=torch.Generator().manual_seed(0))
    features[:2] += 100
    labels = (torch.arange(3010) >= 3000).long()
    _, shares, silhouettes = cluster_scores(features, labels, 2)
    assert float(shares[0]) == pytest.approx(2 / 3000)
    assert sizes == [1 + 999, 10], "one of the two that are far away, a third of the others"
    assert silhouettes.tolist() == [0.5, 0.5]


def test_the_number_of_components_is_that_of_the_axes_that_are_clustered():
    """The two groups differ along the axis of least variance only."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 3, generator=generator) * torch.tensor([30.0, 20.0, 0.1])
    features[:10, 2] += 3
    labels = (torch.arange(80) >= 60).long()
    found = [cluster_scores(features, labels, 2, components=count)[0][:60] > 0 for count in (2, 3)]
    planted_ones = torch.arange(60) < 10
    assert not torch.equal(found[0], planted_ones)
    assert torch.equal(found[1], planted_ones)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"components": 0}, "components.*got 0"),
        ({"largest_share": 0}, r"largest_share in \(0, 0.5\], got 0"),
        ({"largest_share": 0.6}, "largest_share.*got 0.6"),
        ({"statistic": "distance"}, "statistic to be one of size, silhouette, got 'distance'"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        ActivationClustering(**wrong)


def test_features_that_are_no_numbers_name_their_sample():
    features, labels = heaps()
    features[7, 0] = math.inf
    with pytest.raises(NabError, match=r"finite features.*sample 7"):
        cluster_scores(features, labels, 2)
