"""The oracle: its accuracy is exact, and its scores are a ranking."""

from __future__ import annotations

import pytest
from helpers import random_dataset, truth_of

from nab.detection import OracleDetector, select_suspects
from nab.errors import ConfigError
from nab.evaluation import auroc
from nab.needs import Given
from nab.training import Trainer


@pytest.mark.parametrize("accuracy", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_the_oracles_dial_is_exact_for_every_detection_rate(accuracy, rate):
    truth = truth_of([0] * 2000, list(range(5, 405, 2)))
    dataset = random_dataset(2000, size=8)
    scores = OracleDetector(accuracy).score(dataset, Trainer(), Given(truth=truth)).scores
    is_suspect = select_suspects(scores, rate)
    count = int(is_suspect.sum())
    assert int(truth.is_poisoned[is_suspect].sum()) == int(accuracy * count + 0.5)


def test_the_oracles_scores_are_a_ranking_without_ties():
    given = Given(truth=truth_of([0] * 50, list(range(10))))
    scores = OracleDetector(0.5).score(random_dataset(50), Trainer(), given).scores
    assert scores.sort().values.tolist() == list(range(1, 51))


def test_a_perfect_oracle_has_an_auroc_of_100():
    truth = truth_of([0] * 50, list(range(10)))
    scores = OracleDetector().score(random_dataset(50), Trainer(), Given(truth=truth)).scores
    assert auroc(scores, truth.is_poisoned) == 100


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_oracle_cannot_be_right_more_than_always(accuracy):
    with pytest.raises(ConfigError, match=rf"accuracy in \[0, 1\], got {accuracy}"):
        OracleDetector(accuracy)
