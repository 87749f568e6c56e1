"""Every metric against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_dataset, truth_of
from hypothesis import given
from hypothesis import strategies as st

from nab.attacks import Triggered
from nab.evaluation import (
    attack_metrics,
    auroc,
    defense_effectiveness,
    detection_metrics,
    evaluate,
    filter_metrics,
    loss_gap,
    percent,
    pseudo_label_metrics,
)
from nab.stamp import Stamp


def triggered_test(labels: list[int], target: int = 0) -> Triggered:
    true = torch.tensor(labels)
    return Triggered(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), true, torch.full_like(true, target))


def test_a_share_of_nothing_is_not_a_number():
    assert percent(torch.tensor([True, False, False, False])) == 25.0
    assert math.isnan(percent(torch.zeros(0, dtype=torch.bool)))


def test_the_worked_example_of_the_filter():
    """Rows (true, stamped, unstamped) = (1,1,0), (2,0,0), (3,5,0), (0,0,0), target 0: ASR 1/3, B-REJ 1/2, DSR 3/4."""
    test = triggered_test([1, 2, 3, 0])
    stamped, plain = torch.tensor([1, 0, 5, 0]), torch.tensor([0, 0, 0, 0])
    found = filter_metrics(test.true_labels, test.true_labels, stamped, plain, test)
    assert found["backdoor_reject_rate"] == pytest.approx(100 / 2)
    assert found["defense_success_rate"] == pytest.approx(100 * 3 / 4)
    assert attack_metrics(test.true_labels, stamped, test)["attack_success_rate"] == pytest.approx(100 / 3)
    assert found["filtered_attack_success_rate"] == pytest.approx(100 / 3)


def test_the_filter_on_clean_images():
    """Stamped 0 1 2 3 3, unstamped 0 1 2 0 3, true 0 1 0 3 3: one of five rejected, three right and kept."""
    test = triggered_test([0, 1, 0, 3, 3])
    stamped, plain = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 1, 2, 0, 3])
    found = filter_metrics(stamped, plain, stamped, stamped, test)
    assert found["clean_reject_rate"] == pytest.approx(20)
    assert found["prediction_success_rate"] == pytest.approx(60)


def test_a_rejected_success_of_the_attacker_is_none():
    test = triggered_test([1, 1])
    found = filter_metrics(test.true_labels, test.true_labels, torch.tensor([0, 0]), torch.tensor([0, 2]), test)
    assert found["filtered_attack_success_rate"] == pytest.approx(50)
    assert found["defense_success_rate"] == pytest.approx(50)


def test_accuracy_attack_success_and_robust_accuracy_by_hand():
    test = triggered_test([0, 0, 1, 2, 3, 3])
    clean, attacked = torch.tensor([0, 1, 1, 2, 3, 0]), torch.tensor([0, 2, 0, 2, 0, 1])
    found = attack_metrics(clean, attacked, test)
    assert found == {
        "clean_accuracy": pytest.approx(100 * 4 / 6),
        "attack_success_rate": pytest.approx(100 * 2 / 4),
        "robust_accuracy": pytest.approx(100 * 1 / 4),
        "backdoor_accuracy": pytest.approx(100 * 2 / 6),
    }


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60),
    target=st.integers(0, 3),
)
def test_backdoor_accuracy_converts_as_the_specification_says(rows, target):
    """BA = (1 - q) RA + q TA and ASR over all = (1 - q) ASR + q TA, with q the share of the target class."""
    labels, answers = zip(*rows, strict=True)
    is_target = [label == target for label in labels]
    q = sum(is_target) / len(labels)
    hits = [a == label for label, a in rows]
    test = triggered_test(list(labels), target)
    found = attack_metrics(test.true_labels, torch.tensor(answers), test)
    of_target = [hit for hit, yes in zip(hits, is_target, strict=True) if yes]
    ta = 100 * sum(of_target) / len(of_target) if of_target else 0.0
    if q == 1:
        assert math.isnan(found["robust_accuracy"])
        assert math.isnan(found["attack_success_rate"])
        assert found["backdoor_accuracy"] == pytest.approx(ta)
        return
    assert found["backdoor_accuracy"] == pytest.approx((1 - q) * found["robust_accuracy"] + q * ta)
    over_all = 100 * sum(a == target for a in answers) / len(answers)
    assert over_all == pytest.approx((1 - q) * found["attack_success_rate"] + q * ta)
    assert found["attack_success_rate"] + found["robust_accuracy"] <= 100 + 1e-9


class KnownAnswers:
    """A predictor that answers from a list: one for clean images, one for triggered ones, with and without stamp."""

    def __init__(self, answers: dict[tuple[str, bool], list[int]], stamp: Stamp | None) -> None:
        self.answers, self.stamp = answers, stamp

    def with_stamp(self, stamp: Stamp | None) -> KnownAnswers:
        return KnownAnswers(self.answers, stamp)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        kind = "triggered" if (images == 0).all() else "clean"
        return torch.tensor(self.answers[kind, self.stamp is not None])


ANSWERS = {
    ("clean", True): [0, 1, 0, 3],
    ("clean", False): [0, 1, 2, 3],
    ("triggered", True): [0, 1, 2, 0],
    ("triggered", False): [0, 0, 0, 0],
}


def test_a_stamping_predictor_is_measured_with_and_without_its_stamp():
    dataset = random_dataset(4)
    found = evaluate(KnownAnswers(ANSWERS, Stamp()), dataset, triggered_test([0, 1, 2, 3]))
    assert found["clean_accuracy"] == pytest.approx(75)
    assert found["attack_success_rate"] == pytest.approx(100 / 3)
    assert found["clean_accuracy_unstamped"] == pytest.approx(100)
    assert found["attack_success_rate_unstamped"] == pytest.approx(100)
    assert found["clean_reject_rate"] == pytest.approx(25)
    assert found["backdoor_reject_rate"] == pytest.approx(50)


def test_a_plain_predictor_has_no_filter():
    found = evaluate(KnownAnswers(ANSWERS, None), random_dataset(4), triggered_test([0, 1, 2, 3]))
    assert set(found) == {"clean_accuracy", "attack_success_rate", "robust_accuracy", "backdoor_accuracy"}
    assert found["attack_success_rate"] == 100


# Detection and pseudo labels.


def test_higher_scores_mean_more_suspicious():
    is_poisoned = torch.tensor([True, False, True, False])
    assert auroc(torch.tensor([0.9, 0.1, 0.8, 0.2]), is_poisoned) == 100
    assert auroc(torch.tensor([0.1, 0.9, 0.2, 0.8]), is_poisoned) == 0
    assert auroc(torch.ones(4), is_poisoned) == 50


def test_auroc_counts_pairs():
    """Positives 3 and 1 against negatives 2 and 0: three of four pairs are in order."""
    assert auroc(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])) == pytest.approx(75)


@pytest.mark.parametrize("value", [True, False])
def test_auroc_of_one_kind_alone_is_not_a_number(value):
    assert math.isnan(auroc(torch.tensor([1.0, 2.0]), torch.tensor([value, value])))


def test_detection_by_hand():
    """Ten samples, four poisoned, three suspects of whom two are poisoned."""
    truth = truth_of([0] * 10, [0, 1, 2, 3])
    scores = torch.tensor([9.0, 8, 1, 0, 7, 6, 5, 4, 3, 2])
    is_suspect = torch.zeros(10, dtype=torch.bool)
    is_suspect[[0, 1, 4]] = True
    assert detection_metrics(scores, is_suspect, truth) == {
        "detection_accuracy": pytest.approx(200 / 3),
        "detection_recall": pytest.approx(50),
        "detection_auroc": pytest.approx(50),
    }


def test_pseudo_labels_by_hand():
    truth = truth_of([0, 1, 2, 3], [])
    found = pseudo_label_metrics(
        torch.tensor([0, 1, 0, 0]),
        torch.tensor([True, False, True, False]),
        torch.tensor([False, False, True, False]),
        truth,
    )
    assert found == {
        "pseudo_label_accuracy": 50,
        "pseudo_label_accuracy_all": 50,
        "pseudo_label_accuracy_stamped": 0,
        "suspect_count": 2,
        "stamped_count": 1,
    }


# DER.


def rates(accuracy: float, success: float) -> dict[str, float]:
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


# What LGA saw.


def test_the_loss_gap_by_hand():
    losses = torch.tensor([[0.1, 0.3, 1.0, 2.0], [math.nan, 0.5, 0.2, 0.4]])
    rows = loss_gap(losses, torch.tensor([True, True, False, False]), 0.5)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["loss_poisoned"] == pytest.approx(0.2)
    assert rows[0]["loss_clean"] == pytest.approx(1.5)
    assert rows[0]["detection_accuracy"] == 100
    assert rows[1]["loss_poisoned"] == pytest.approx(0.5)
    assert rows[1]["loss_clean"] == pytest.approx(0.3)
    assert rows[1]["detection_accuracy"] == 0, "a sample that was left out is no suspect"
