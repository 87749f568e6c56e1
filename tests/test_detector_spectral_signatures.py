"""Spectral signatures: the axis and the projections, worked out by hand on a cross of points."""

from __future__ import annotations

import math

import pytest
import torch
from planted import PixelModel, given_around, planted
from torch import Tensor

from nab.detection import SpectralSignatures, select_suspects
from nab.detection.spectral_signatures import spectral_scores
from nab.errors import NabError
from nab.training import Trainer


def cross(clean: float, shifted: float) -> tuple[Tensor, Tensor]:
    """Class 0: eight points at ``clean``, one up and one down in turn, and two at ``shifted``; class 1: a square."""
    up = [1.0, -1.0] * 4
    shift = [[clean, height] for height in up] + [[shifted, 0.0]] * 2
    square = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]] * 2
    return torch.tensor(shift + square), torch.tensor([0] * 10 + [1] * 8)


def test_the_score_is_the_squared_projection_of_the_centered_features_on_the_first_axis():
    """The mean of class 0 is (2, 0) and its axis is the first: 2^2 for the eight, 8^2 for the two."""
    scores, _ = spectral_scores(*cross(0.0, 10.0), num_classes=2)
    torch.testing.assert_close(scores[:10], torch.tensor([4.0] * 8 + [64.0] * 2))
    assert scores.dtype == torch.float32


def test_uncentered_projections_measure_from_zero():
    """The mean of class 0 is (4, 0): 1 and 16 from it, 25 and 0 from zero, which turns the order round."""
    features, labels = cross(5.0, 0.0)
    centered, _ = spectral_scores(features, labels, 2)
    uncentered, _ = spectral_scores(features, labels, 2, is_centered=False)
    torch.testing.assert_close(centered[:10], torch.tensor([1.0] * 8 + [16.0] * 2))
    torch.testing.assert_close(uncentered[:10], torch.tensor([25.0] * 8 + [0.0] * 2))


def test_the_statistic_is_the_ratio_of_the_first_two_variances():
    """Sums of squares 8 x 2^2 + 2 x 8^2 = 160 along the first axis of class 0, 8 along the second; a square has 1."""
    _, statistics = spectral_scores(*cross(0.0, 10.0), num_classes=2)
    torch.testing.assert_close(statistics, torch.tensor([20.0, 1.0]))


def test_a_class_of_too_few_samples_is_not_judged():
    features, labels = cross(0.0, 10.0)
    scores, statistics = spectral_scores(features[:-1], labels[:-1], 3)
    assert statistics.isnan().tolist() == [False, True, True]
    assert (scores[10:] == 0).all()


def test_a_class_without_variance_is_not_judged_and_one_with_a_single_axis_is_finite():
    features, labels = cross(0.0, 10.0)
    features[:, 1] = 0
    features[10:] = 3
    _, statistics = spectral_scores(features, labels, 2)
    assert statistics[0].isfinite()
    assert statistics[0] > 1e6
    assert statistics[1].isnan()


def test_planted_samples_are_the_suspects():
    dataset, is_poisoned = planted()
    found = SpectralSignatures().score(dataset, Trainer(), given_around(PixelModel(4)))
    assert torch.equal(select_suspects(found.scores, 0.05), is_poisoned)
    assert (found.scores[60:] == -math.inf).all(), "one class is suspected"
    assert found.notes["statistics"].argmax() == 0


def test_features_that_are_no_numbers_name_their_sample():
    features, labels = cross(0.0, 10.0)
    features[3, 1] = math.nan
    with pytest.raises(NabError, match=r"finite features.*sample 3.*diverged"):
        spectral_scores(features, labels, 2)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0] * 20, "at least two classes, which are compared, got 1"),
        ([0] * 7 + [1] * 7, "at least 8 samples, got at most 7"),
    ],
)
def test_a_set_whose_classes_cannot_be_compared_is_refused(labels, told):
    with pytest.raises(NabError, match=told):
        spectral_scores(torch.randn(len(labels), 3), torch.tensor(labels), 2)
