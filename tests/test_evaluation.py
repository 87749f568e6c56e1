"""Metrics of answers against values worked by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
from helpers import FixedLogits
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import Triggered
from nab.data import IDENTITY, Dataset
from nab.defenses import Answers, Deployed, Plain, Response
from nab.evaluation import (
    answer_metrics,
    attack_metrics,
    evaluate,
    input_metrics,
    percent,
    refusal_metrics,
)
from nab.training import Predictor, Runtime


def triggered_test(labels: list[int], target: int = 0) -> Triggered:
    true = torch.tensor(labels)
    return Triggered(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), true, torch.full_like(true, target))


def answers(labels: list[int], refused: list[int] | None = None, scores: list[float] | None = None) -> Answers:
    return Answers(
        torch.tensor(labels),
        None if refused is None else torch.tensor(refused).bool(),
        None if scores is None else torch.tensor(scores),
    )


def test_a_share_of_nothing_is_not_a_number():
    assert percent(torch.tensor([True, False, False, False])) == 25.0
    assert math.isnan(percent(torch.zeros(0, dtype=torch.bool)))


# Refusal. Of NAB's filter: an image is refused if the answers with and without the stamp differ.


def filtered(stamped: list[int], bare: list[int]) -> Answers:
    return answers(stamped, [int(s != b) for s, b in zip(stamped, bare, strict=True)])


def test_the_worked_example_of_the_filter():
    """Rows (true, stamped, bare) = (1,1,0), (2,0,0), (3,5,0), (0,0,0), target 0: ASR 1/3, B-REJ 1/2, DSR 3/4."""
    test = triggered_test([1, 2, 3, 0])
    attacked = filtered([1, 0, 5, 0], [0, 0, 0, 0])
    found = refusal_metrics(answers([1, 2, 3, 0], [0, 0, 0, 0]), attacked, test)
    assert attack_metrics(test.true_labels, attacked.labels, test)["attack_success_rate"] == pytest.approx(100 / 3)
    assert found == {
        "clean_accuracy_after_refusal": 100,
        "attack_success_rate_after_refusal": pytest.approx(100 / 3),
        "robust_accuracy_after_refusal": 0,  # (1,1,0) is right, and refused
        "robust_accuracy_all_after_refusal": 25,
        "clean_refusal_rate": 0,
        "triggered_refusal_rate": 50,
        "defense_success_rate": 75,
    }


def test_the_filter_on_clean_images():
    """Stamped 0 1 2 3 3, bare 0 1 2 0 3, true 0 1 0 3 3: one of five refused, three right and kept."""
    test = triggered_test([0, 1, 0, 3, 3])
    found = refusal_metrics(filtered([0, 1, 2, 3, 3], [0, 1, 2, 0, 3]), None, test)
    assert found == {"clean_refusal_rate": 20, "clean_accuracy_after_refusal": 60}


def test_a_refused_success_of_the_attacker_is_none():
    test = triggered_test([1, 1])
    found = refusal_metrics(answers([1, 1], [0, 0]), filtered([0, 0], [0, 2]), test)
    assert found["attack_success_rate_after_refusal"] == 50
    assert found["defense_success_rate"] == 50


def test_a_defense_that_never_refuses_has_no_such_metrics():
    assert refusal_metrics(answers([1]), answers([0]), triggered_test([1])) == {}


# Attack.


def test_accuracy_attack_success_and_robust_accuracy_by_hand():
    test = triggered_test([0, 0, 1, 2, 3, 3])
    clean, attacked = torch.tensor([0, 1, 1, 2, 3, 0]), torch.tensor([0, 2, 0, 2, 0, 1])
    found = attack_metrics(clean, attacked, test)
    assert found == {
        "clean_accuracy": pytest.approx(100 * 4 / 6),
        "attack_success_rate": pytest.approx(100 * 2 / 4),
        "robust_accuracy": pytest.approx(100 * 1 / 4),
        "robust_accuracy_all": pytest.approx(100 * 2 / 6),
    }


def test_without_an_attack_there_is_accuracy_alone():
    assert attack_metrics(torch.tensor([0, 1]), None, triggered_test([0, 0])) == {"clean_accuracy": 50}


def test_a_refusal_is_neither_right_nor_a_success():
    test = triggered_test([1, 2, 0])
    refused = torch.full((3,), -1)
    assert set(attack_metrics(refused, refused, test).values()) == {0.0}


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60),
    target=st.integers(0, 3),
)
def test_robust_accuracy_over_all_converts_as_the_specification_says(rows, target):
    """BA = (1 - q) RA + q TA and ASR over all = (1 - q) ASR + q TA, with q the share of the target class."""
    labels, said = zip(*rows, strict=True)
    is_target = [label == target for label in labels]
    q = sum(is_target) / len(labels)
    hits = [a == label for label, a in rows]
    test = triggered_test(list(labels), target)
    found = attack_metrics(test.true_labels, torch.tensor(said), test)
    of_target = [hit for hit, yes in zip(hits, is_target, strict=True) if yes]
    ta = 100 * sum(of_target) / len(of_target) if of_target else 0.0
    if q == 1:
        assert math.isnan(found["robust_accuracy"])
        assert math.isnan(found["attack_success_rate"])
        assert found["robust_accuracy_all"] == pytest.approx(ta)
        return
    assert found["robust_accuracy_all"] == pytest.approx((1 - q) * found["robust_accuracy"] + q * ta)
    over_all = 100 * sum(a == target for a in said) / len(said)
    assert over_all == pytest.approx((1 - q) * found["attack_success_rate"] + q * ta)
    assert found["attack_success_rate"] + found["robust_accuracy"] <= 100 + 1e-9


# Scores of inputs.


def test_triggered_inputs_are_told_from_clean_ones_by_hand():
    """Two of six pairs of a clean score (1, 5) and a triggered one (4, 5, 0) are in order, and one is a tie. Five
    percent of two clean images are none, so a detection needs a score above 5. The first triggered image, with the
    score 9, is of the target class and does not count."""
    test = triggered_test([0, 1, 2, 3])
    found = input_metrics(answers([0, 0], scores=[1.0, 5.0]), answers([0] * 4, scores=[9.0, 4.0, 5.0, 0.0]), test)
    assert found == {"input_auroc": pytest.approx(100 * 2.5 / 6), "input_detection_rate": 0}


def test_the_detection_rate_lets_five_of_a_hundred_clean_images_pass_the_threshold():
    """Clean scores 0 to 99: the five above 94 are the false positives. 94 is not above, 94.5 and 200 are."""
    clean = answers([0] * 100, scores=[float(k) for k in range(100)])
    test = triggered_test([1, 1, 1])
    found = input_metrics(clean, answers([0] * 3, scores=[94.0, 94.5, 200.0]), test)
    assert found["input_detection_rate"] == pytest.approx(200 / 3)


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=80), st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_the_detection_rate_is_the_best_at_five_percent_false_positives(clean, triggered):
    """Of all thresholds that so few clean scores exceed, the lowest detects the most."""
    rates = [
        sum(score > threshold for score in triggered) / len(triggered)
        for threshold in range(21)
        if sum(score > threshold for score in clean) <= 0.05 * len(clean)
    ]
    test = triggered_test([1] * len(triggered))
    found = input_metrics(
        answers([0] * len(clean), scores=[float(s) for s in clean]),
        answers([0] * len(triggered), scores=[float(s) for s in triggered]),
        test,
    )
    assert found["input_detection_rate"] == pytest.approx(100 * max(rates))


@pytest.mark.parametrize("triggered", [None, answers([0])], ids=["no attack", "no scores"])
def test_without_scores_or_attack_nothing_is_told_apart(triggered):
    assert input_metrics(answers([0], scores=[1.0]), triggered, triggered_test([1])) == {}
    assert input_metrics(answers([0]), answers([0], scores=[1.0]), triggered_test([1])) == {}


# What is deployed.


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedBright(Deployed):
    """Answers as the network does, scores the first pixel, advises to refuse a score above 100, and has a variant that
    always answers 0."""

    summary: ClassVar[str] = "for tests"

    def respond(self, pixels: torch.Tensor, *, is_full: bool = True) -> Response:
        scores = pixels[:, 0, 0, 0].float()
        logits = self.predictor.forward(self.predictor.normalize(pixels))
        bare = torch.eye(4)[torch.zeros(len(pixels), dtype=torch.long)]
        return Response(logits, scores > 100, scores, {"unstamped": bare})


@dataclasses.dataclass(frozen=True, eq=False)
class RefusedBright(MarkedBright):
    """The same, where a refusal is the answer."""

    refuses: ClassVar[bool] = True


def deployed(kind: type[Deployed]) -> Deployed:
    """A network that answers the label which is written in the second pixel."""
    network = FixedLogits(lambda images: torch.eye(4)[images[:, 0, 0, 1].long()])
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    return kind(Predictor(network, IDENTITY, runtime, classes=tuple("abcd"), shape=(1, 1, 2)))


def images(scores: list[int], labels: list[int]) -> torch.Tensor:
    return torch.tensor([scores, labels], dtype=torch.uint8).T[:, None, None, :]


TEST = Dataset(images([0, 200, 0, 0], [0, 1, 2, 0]), torch.arange(4), tuple("abcd"))
"""Right, right but refused, right, wrong."""

TRIGGERED = Triggered(images([150, 200, 0, 150], [0, 0, 0, 3]), TEST.labels, torch.zeros(4, dtype=torch.long))
"""Of classes 1, 2, 3: a success that is refused, a success that is not, and a right answer that is refused."""


def test_a_plain_network_has_four_metrics():
    found = evaluate(deployed(Plain), TEST, TRIGGERED)
    assert found == {
        "clean_accuracy": 75,
        "attack_success_rate": pytest.approx(200 / 3),
        "robust_accuracy": pytest.approx(100 / 3),
        "robust_accuracy_all": 50,
    }


def test_a_refusal_that_is_advice_is_counted_beside():
    found = evaluate(deployed(MarkedBright), TEST, TRIGGERED)
    assert found["clean_accuracy"] == 75
    assert found["clean_accuracy_after_refusal"] == 50
    assert found["attack_success_rate"] == pytest.approx(200 / 3)
    assert found["attack_success_rate_after_refusal"] == pytest.approx(100 / 3)
    assert found["robust_accuracy"] == pytest.approx(100 / 3)
    assert found["robust_accuracy_after_refusal"] == 0
    assert found["clean_refusal_rate"] == 25
    assert found["triggered_refusal_rate"] == 75
    assert found["defense_success_rate"] == 75
    assert found["input_auroc"] == pytest.approx(100 * (3.5 + 1.5 + 3) / 12)  # 200, 0 and 150 against 0, 200, 0, 0
    assert found["input_detection_rate"] == 0


def test_a_refusal_that_is_the_answer_counts_at_once():
    found = evaluate(deployed(RefusedBright), TEST, TRIGGERED)
    for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy", "robust_accuracy_all"):
        assert found[name] == found[f"{name}_after_refusal"]
    assert found["clean_accuracy"] == 50


def test_a_variant_is_measured_by_its_own_labels():
    """It answers 0 to every image."""
    found = evaluate(deployed(MarkedBright), TEST, TRIGGERED)
    assert found["clean_accuracy_unstamped"] == 25
    assert found["attack_success_rate_unstamped"] == 100
    assert found["robust_accuracy_unstamped"] == 0
    assert found["robust_accuracy_all_unstamped"] == 25


def test_without_an_attack_only_clean_images_are_measured():
    found = evaluate(deployed(MarkedBright), TEST, TRIGGERED, is_attacked=False)
    assert set(found) == {
        "clean_accuracy",
        "clean_accuracy_unstamped",
        "clean_accuracy_after_refusal",
        "clean_refusal_rate",
    }
    clean = deployed(Plain).answer(TEST.images)
    assert answer_metrics(deployed(Plain), clean, None, TRIGGERED) == {"clean_accuracy": 75}
