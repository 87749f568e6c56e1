"""NC: centers and distances on the unit circle, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fresh, random_dataset
from sklearn.covariance import LedoitWolf

from nab.errors import ConfigError, NabError
from nab.methods import make
from nab.needs import Given, Suspicion
from nab.pseudolabels import NC
from nab.pseudolabels.nc import nearest_center
from nab.training import Recipe, Trainer


def circle(*degrees: float) -> torch.Tensor:
    """Points of length one."""
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


def labels_of(features: torch.Tensor, labels: list[int], suspects: list[int], **fields: Any) -> list[int]:
    """NC on a dataset whose features are given; ``scores`` are the detector's, all the same by default."""
    scores = fields.pop("scores", torch.full((len(labels),), -math.inf))
    dataset = random_dataset(len(labels), classes=fields.pop("classes", 2)).replace(labels=torch.tensor(labels))
    is_suspect = torch.zeros(len(labels), dtype=torch.bool)
    is_suspect[suspects] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nab.pseudolabels.nc.find_features", lambda dataset, encoder: features)
        given = Given(Suspicion(scores, is_suspect), encoder=fresh(random_dataset(2)))
        return NC(**fields).label(dataset, Trainer(), given).tolist()


POISONED = circle(-30, -30, -30, 90, 90, 10, 10, 10, 10)
"""Three of class 0, two of class 1, and four of class 0 with the label 1."""
LIES = [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_centers_are_made_without_the_suspects():
    """Centers at -30 and 90 degrees; from 10 degrees the first one is nearer."""
    assert labels_of(POISONED, LIES, [5, 6, 7, 8]) == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_centers_of_all_samples_are_pulled_by_poison():
    """Class 1 then has its center at (0.657, 0.449), 0.43 from the poison; that of class 0 is 0.68 away."""
    assert labels_of(POISONED, LIES, [5, 6, 7, 8], exclude_rate=None) == [0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("center", "expected"), [("mean", 1), ("median", 0)])
def test_a_median_center_stays_where_most_samples_are(center, expected):
    """Class 1: four at 90 and two at 10 degrees; mean (0.328, 0.725), median (0, 1). Class 0: -10 degrees.

    A sample at 35 degrees is 0.51 from the mean, 0.92 from the median and 0.77 from the other class.
    """
    features = circle(-10, 90, 90, 90, 90, 10, 10, 35)
    assert labels_of(features, [0, 1, 1, 1, 1, 1, 1, 0], [7], center=center)[7] == expected


def test_the_median_of_two_is_halfway():
    """Class 0 at 0 and 90 degrees: (1/2, 1/2), 0.51 from 20 degrees; class 1 at -15 degrees: 0.60."""
    features = circle(0, 90, -15, 20)
    assert labels_of(features, [0, 0, 1, 0], [3], center="median") == [1, 0, 1, 0]


def test_a_center_keeps_its_length():
    """Class 0 at 80 and -80 degrees: its center (0.174, 0) is 0.93 from 61 degrees, that of class 1 at 120 is 0.98.

    By angle alone class 1 would be nearer: 59 degrees against 61.
    """
    features = circle(80, -80, 120, 61)
    assert labels_of(features, [0, 0, 1, 1], [3])[3] == 0


def test_how_long_a_feature_is_does_not_matter():
    lengths = torch.tensor([1.0, 9.0, 0.1, 5.0, 0.2, 1.0, 30.0, 2.0, 0.5])[:, None]
    for fields in ({}, {"exclude_rate": None}, {"center": "median"}):
        assert labels_of(POISONED * lengths, LIES, [5, 6], **fields) == labels_of(POISONED, LIES, [5, 6], **fields)


def test_distances_are_euclidean_in_many_dimensions():
    """Against distances taken one by one."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator)
    labels, is_left = torch.arange(60) % 5, torch.arange(60) % 3 > 0
    unit = features / features.norm(dim=1, keepdim=True)
    centers = torch.stack([unit[is_left & (labels == label)].mean(0) for label in range(5)])
    expected = [min(range(5), key=lambda label: float((z - centers[label]).norm())) for z in unit]
    assert nearest_center(features, labels, is_left).tolist() == expected


def long_classes(flip: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that spread 3 along one axis and 0.1 along another, on which alone they differ by 1; on the sphere of
    radius 100 a plane to within 5 %, with a constant third number that keeps `nearest_center` from turning it."""
    along = torch.linspace(-3, 3, 40).repeat(2)
    across = torch.where(torch.arange(80) < 40, 0.0, 1.0) + 0.1 * (torch.arange(80) % 2 - 0.5)
    plane = torch.stack((across, along) if flip else (along, across), 1)
    return torch.cat([plane, torch.full((80, 1), 100.0)], 1), (torch.arange(80) >= 40).long()


@pytest.mark.parametrize("flip", [False, True])
def test_mahalanobis_counts_a_direction_for_less_in_which_classes_spread(flip):
    """The sample at (2.5 along, 0.7 across) belongs above; class 1's center is moved to -1 along, so that class 0's is
    nearer by Euclid: 2.6 against 3.5. In deviations (1.8 along, 0.05 across) it is 14 against 6."""
    features, labels = long_classes(flip)
    axis = 1 if flip else 0
    features[40:, axis] -= 1
    sample = torch.tensor([[0.7, 2.5, 100.0] if flip else [2.5, 0.7, 100.0]])
    features, labels = torch.cat([features, sample]), torch.cat([labels, torch.tensor([0])])
    is_left = torch.arange(81) < 80
    assert nearest_center(features, labels, is_left)[80] == 0
    assert nearest_center(features, labels, is_left, metric="mahalanobis")[80] == 1
    assert nearest_center(features, labels, is_left, metric="mahalanobis", use_median=True)[80] == 1


def test_mahalanobis_is_the_distance_under_one_covariance_for_all_classes():
    """Against scikit-learn's distances, one class after the other; classes of different sizes."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.cat([torch.zeros(300), torch.ones(60), torch.full((40,), 2)]).long()
    mixing = torch.randn(6, 6, generator=generator)
    features = torch.randn(400, 6, generator=generator) @ mixing + 1.5 * torch.randn(3, 6, generator=generator)[labels]
    unit = features / features.norm(dim=1, keepdim=True)
    means = torch.stack([unit[labels == label].mean(0) for label in range(3)])
    estimator = LedoitWolf(assume_centered=True).fit((unit - means[labels]).double().numpy())
    distances = [estimator.mahalanobis((unit - mean).double().numpy()) for mean in means]
    found = nearest_center(features, labels, torch.ones(400, dtype=torch.bool), metric="mahalanobis")
    assert found.tolist() == np.argmin(distances, 0).tolist()
    assert (found == nearest_center(features, labels, torch.ones(400, dtype=torch.bool))).float().mean() < 0.99


def test_mahalanobis_of_samples_that_do_not_differ_is_euclidean():
    """One sample a class, and a number that is the same in all: nothing to estimate a covariance from."""
    features = circle(0, 120, 50)
    is_left = torch.tensor([True, True, False])
    assert nearest_center(features, torch.tensor([0, 1, 1]), is_left, metric="mahalanobis").tolist() == [0, 1, 0]


def test_mahalanobis_bears_numbers_that_never_differ():
    features, labels = long_classes(flip=False)
    dead = torch.cat([features, torch.zeros(80, 3)], 1)
    everything = torch.ones(80, dtype=torch.bool)
    expected = nearest_center(features, labels, everything, metric="mahalanobis")
    assert nearest_center(dead, labels, everything, metric="mahalanobis").equal(expected)


def test_a_class_without_a_sample_left_is_told_by_name():
    with pytest.raises(NabError, match=r"labeler 'nc': all samples of class 'b' are suspects.*exclude_rate to null"):
        labels_of(POISONED, LIES, [3, 4, 5, 6, 7, 8])
    assert labels_of(POISONED, LIES, [3, 4, 5, 6, 7, 8], exclude_rate=None)


def test_a_class_that_nobody_has_is_nobodys_guess():
    """Of three classes only the second and third have samples; the numbers are those of the first test."""
    expected = [1, 1, 1, 2, 2, 1, 1, 1, 1]
    assert labels_of(POISONED, [label + 1 for label in LIES], [5, 6, 7, 8], classes=3) == expected


def test_centers_are_made_without_the_most_suspicious_share():
    """Of the four poisoned samples one is a suspect; a share of 0.4 leaves out the three others as well."""
    scores = torch.tensor([0.0, 0, 0, 0, 0, 4, 3, 2, 1])
    assert labels_of(POISONED, LIES, [5], scores=scores, exclude_rate=0.45) == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    for fields in ({"scores": scores, "exclude_rate": 0.0}, {}):
        assert labels_of(POISONED, LIES, [5], **fields) == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_only_the_precision_of_the_recipe_matters():
    assert NC().recipe(Recipe(epochs=7, lr=0.3, precision="float32")) == Recipe(precision="float32")


@pytest.mark.parametrize(("field", "allowed"), [("center", "mean, median"), ("metric", "euclidean, mahalanobis")])
def test_unknown_choices_are_refused(field, allowed):
    with pytest.raises(ConfigError, match=f"expected {field} to be one of {allowed}, got 'x'"):
        make("labeler", "nc", {field: "x"})


def test_a_share_is_a_share():
    with pytest.raises(ConfigError, match=r"exclude_rate in \[0, 1\), got 1"):
        NC(exclude_rate=1.0)
