"""Metrics of suspects and of defenses against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import truth_of

from nab.evaluation import (
    auroc,
    defense_effectiveness,
    detection_metrics,
    loss_gap,
    pseudo_label_metrics,
    stamp_metrics,
)
from nab.needs import Suspicion


def test_higher_scores_mean_more_suspicious():
    is_poisoned = torch.tensor([True, False, True, False])
    assert auroc(torch.tensor([0.9, 0.1, 0.8, 0.2]), is_poisoned) == 100
    assert auroc(torch.tensor([0.1, 0.9, 0.2, 0.8]), is_poisoned) == 0
    assert auroc(torch.ones(4), is_poisoned) == 50


def test_auroc_counts_pairs():
    """Positives 3 and 1 against negatives 2 and 0: three of four pairs are in order."""
    assert auroc(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])) == pytest.approx(75)


def test_auroc_takes_minus_infinity_for_the_lowest_score():
    """Positives 1 and -inf against negatives 0 and -inf: two pairs in order, one tie, one not in order."""
    scores = torch.tensor([1.0, 0.0, -math.inf, -math.inf])
    assert auroc(scores, torch.tensor([True, False, True, False])) == pytest.approx(100 * 2.5 / 4)


@pytest.mark.parametrize("value", [True, False])
def test_auroc_of_one_kind_alone_is_not_a_number(value):
    assert math.isnan(auroc(torch.tensor([1.0, 2.0]), torch.tensor([value, value])))


def suspects(count: int, positions: list[int], scores: list[float] | None = None, labels: list[int] | None = None):
    is_suspect = torch.zeros(count, dtype=torch.bool)
    is_suspect[positions] = True
    found = torch.zeros(count) if scores is None else torch.tensor(scores)
    return Suspicion(found, is_suspect, None if labels is None else torch.tensor(labels))


def test_detection_by_hand():
    """Ten samples, four poisoned, three suspects of whom two are poisoned."""
    truth = truth_of([0] * 10, [0, 1, 2, 3])
    suspicion = suspects(10, [0, 1, 4], [9.0, 8, 1, 0, 7, 6, 5, 4, 3, 2])
    assert detection_metrics(suspicion, truth) == {
        "suspect_count": 3,
        "detection_precision": pytest.approx(200 / 3),
        "detection_recall": pytest.approx(50),
        "detection_auroc": pytest.approx(50),
    }


def test_without_an_attack_suspects_are_counted():
    assert detection_metrics(suspects(4, [0, 1]), truth_of([0, 1, 2, 3], [])) == {"suspect_count": 2}


def test_pseudo_labels_by_hand():
    """True 0 1 2 3, guessed 0 1 0 0: of the suspects 0 and 2 one is right, of all four two are."""
    found = pseudo_label_metrics(suspects(4, [0, 2], labels=[0, 1, 0, 0]), truth_of([0, 1, 2, 3], []))
    assert found == {"pseudo_label_accuracy": 50, "pseudo_label_accuracy_all": 50}
    assert pseudo_label_metrics(suspects(4, [0]), truth_of([0, 1, 2, 3], [])) == {}


def test_stamped_samples_by_hand():
    """Of the samples 1, 2 and 3, the first alone has the right pseudo label."""
    truth, is_stamped = truth_of([0, 1, 2, 3], []), torch.tensor([False, True, True, True])
    suspicion = suspects(4, [0, 1, 2, 3], labels=[0, 1, 0, 0])
    assert stamp_metrics(suspicion, is_stamped, truth) == {
        "stamped_count": 3,
        "pseudo_label_accuracy_stamped": pytest.approx(100 / 3),
    }
    assert stamp_metrics(suspects(4, [0]), is_stamped, truth) == {"stamped_count": 3}


# DER.


def rates(accuracy: float | None, success: float | None) -> dict[str, float | None]:
    return {"clean_accuracy": accuracy, "attack_success_rate": success}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((94, 100), (93, 1), 99),
        ((94, 100), (94, 0), 100),
        ((94, 100), (94, 100), 50),
        ((94, 50), (95, 60), 50),
        ((90, 100), (10, 100), 10),
    ],
)
def test_defense_effectiveness(before, after, expected):
    assert defense_effectiveness(rates(*before), rates(*after)) == pytest.approx(expected)


@pytest.mark.parametrize("missing", [{"clean_accuracy": 94.0}, rates(94, None), rates(94, math.nan)])
def test_without_an_attack_no_defense_is_effective(missing):
    """A stored result has None where a metric is not a number."""
    assert math.isnan(defense_effectiveness(missing, rates(93, 1)))
    assert math.isnan(defense_effectiveness(rates(94, 100), missing))


# What LGA saw.


def test_the_loss_gap_by_hand():
    losses = torch.tensor([[0.1, 0.3, 1.0, 2.0], [math.nan, 0.5, 0.2, 0.4]])
    rows = loss_gap(losses, torch.tensor([True, True, False, False]), 0.5)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["loss_poisoned"] == pytest.approx(0.2)
    assert rows[0]["loss_clean"] == pytest.approx(1.5)
    assert rows[0]["detection_precision"] == 100
    assert rows[1]["loss_poisoned"] == pytest.approx(0.5)
    assert rows[1]["loss_clean"] == pytest.approx(0.3)
    assert rows[1]["detection_precision"] == 0, "a sample that was left out is no suspect"
