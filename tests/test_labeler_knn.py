"""KNN: who votes, with what weight, worked out by hand, and against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import fresh, random_dataset
from sklearn.neighbors import KNeighborsClassifier

from nab.errors import ConfigError, NabError
from nab.needs import Given, Suspicion
from nab.pseudolabels import KNN
from nab.pseudolabels.knn import vote
from nab.training import Recipe, Trainer


def circle(*degrees: float) -> torch.Tensor:
    """Points of length one."""
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


def voted(degrees: Sequence[float], labels: list[int], suspects: list[int] = [], **options: Any) -> list[int]:  # noqa: B006
    is_voter = torch.ones(len(labels), dtype=torch.bool)
    is_voter[suspects] = False
    return vote(circle(*degrees), torch.tensor(labels), is_voter, max(labels) + 1, **options).tolist()


def test_a_sample_has_no_vote_for_itself():
    """Each one's nearest other sample: 0 and 1 are a pair with different labels, as are 90 and 91."""
    assert voted([0, 1, 90, 91], [0, 1, 2, 3], k=1) == [1, 0, 3, 2]


def test_suspects_have_no_vote_and_get_a_label():
    """The suspect at 2 degrees lies nearest to 1, the suspect's own nearest voter is at 1."""
    assert voted([0, 1, 2, 90, 95], [0, 0, 2, 1, 1], suspects=[2], k=1) == [0, 0, 0, 1, 1]


def test_the_majority_of_the_k_nearest_wins():
    """From 0 degrees: 5 (class 0), 10 and 12 (class 1), 40 (class 0)."""
    degrees, labels = [0, 5, 10, 12, 40, -90], [2, 0, 1, 1, 0, 2]
    assert voted(degrees, labels, suspects=[0], k=1)[0] == 0
    assert voted(degrees, labels, suspects=[0], k=3)[0] == 1


def test_equal_votes_go_to_the_lower_class():
    """Also if the other one is nearer."""
    assert voted([0, 5, 10, 180], [0, 2, 1, 0], suspects=[0], k=2)[0] == 1


@pytest.mark.parametrize(("temperature", "expected"), [(None, 1), (0.07, 0), (10.0, 1)])
def test_a_temperature_lets_near_samples_count_more(temperature, expected):
    """Similarities 1 and twice cos 60 = 0.5: at 0.07, exp(-0.5 / 0.07) = 0.0008 each; at 10, 0.95 each."""
    assert voted([0, 0, 60, -60, 180], [2, 0, 1, 1, 2], suspects=[0], k=3, temperature=temperature)[0] == expected


def test_weights_that_all_round_to_zero_still_vote():
    """From 180 degrees away, exp(-2 / 0.01) is below the least float."""
    assert voted([180, 2, 1, 0], [0, 1, 1, 0], suspects=[0], k=2, temperature=0.01)[0] == 1


def test_more_neighbors_than_there_are_is_all_of_them():
    """Four voters: of three others each, also for the suspect, whose farthest one is left out."""
    assert voted([0, 1, 2, 3, 4], [0, 0, 1, 1, 1], suspects=[4], k=200) == [1, 1, 0, 0, 1]


def test_batches_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(50, 6, generator=generator), torch.arange(50) % 3
    is_voter = torch.rand(50, generator=generator) < 0.7
    whole = vote(features, labels, is_voter, 3, k=5)
    monkeypatch.setattr("nab.pseudolabels.knn.BATCH_SIZE", 7)
    assert torch.equal(vote(features, labels, is_voter, 3, k=5), whole)


def test_suspects_are_labeled_as_scikit_learn_does():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 6, generator=generator), torch.randint(4, (200,), generator=generator)
    is_voter = torch.arange(200) < 150
    judge = KNeighborsClassifier(9, metric="cosine").fit(features[:150], labels[:150])
    expected = judge.predict(features[150:])
    assert vote(features, labels, is_voter, 4, k=9)[150:].tolist() == expected.tolist()


def given(is_suspect: torch.Tensor, scores: torch.Tensor | None = None) -> Given:
    """The encoder is a stand-in: `find_features` is replaced."""
    encoder = fresh(random_dataset(2))
    return Given(Suspicion(torch.zeros(len(is_suspect)) if scores is None else scores, is_suspect), encoder=encoder)


def test_the_labeler_asks_for_features_and_hands_on_its_numbers(monkeypatch):
    monkeypatch.setattr("nab.pseudolabels.knn.find_features", lambda dataset, encoder: circle(0, 0, 60, -60, 180))
    dataset = random_dataset(5).replace(labels=torch.tensor([2, 0, 1, 1, 2]))
    asked = given(torch.tensor([True, False, False, False, False]))
    for labeler, expected in ((KNN(k=1), 0), (KNN(k=3), 1), (KNN(), 1), (KNN(k=3, temperature=0.07), 0)):
        found = labeler.label(dataset, Trainer(), asked)
        assert (int(found[0]), found.dtype, found.device.type) == (expected, torch.int64, "cpu")


def test_the_most_suspicious_share_has_no_vote(monkeypatch):
    """The sample at 0 degrees beside the suspect is the second of six; without it the one at 60 degrees is nearest."""
    monkeypatch.setattr("nab.pseudolabels.knn.find_features", lambda *_: circle(0, 0, 60, -61, 180, 120))
    dataset = random_dataset(6).replace(labels=torch.tensor([2, 0, 1, 1, 2, 0]))
    asked = given(torch.arange(6) == 0, torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    for rate, expected in ((0.0, 0), (0.2, 0), (0.34, 1)):
        assert int(KNN(k=1, exclude_rate=rate).label(dataset, Trainer(), asked)[0]) == expected


def test_too_few_voters_are_refused():
    with pytest.raises(NabError, match="labeler 'knn': expected at least two samples that may vote, got 1 of 4"):
        KNN().label(random_dataset(4), Trainer(), given(torch.arange(4) < 3))


def test_only_the_precision_of_the_recipe_matters():
    assert KNN().recipe(Recipe(epochs=7, lr=0.3, precision="float32")) == Recipe(precision="float32")


def test_knn_has_its_sources_number_and_checks_what_it_is_given():
    assert KNN().k == 200
    with pytest.raises(ConfigError, match="k to be a whole number of at least 1, got 0"):
        KNN(k=0)
    with pytest.raises(ConfigError, match=r"temperature in \[0.01, inf\), got 0"):
        KNN(temperature=0)
