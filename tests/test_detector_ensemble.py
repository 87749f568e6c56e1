"""The ensemble: ranks, weights without labels, and what its members share."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
from helpers import counting_keeper, random_dataset, truth_of

from nab.detection import DETECTORS, LGA, Detector, Ensemble, RandomDetector, Scored, find_scores, select_suspects
from nab.detection.ensemble import Member, agreement_weights, surprise
from nab.digest import describe, digest
from nab.errors import ConfigError
from nab.evaluation import auroc
from nab.methods import make
from nab.needs import Given
from nab.training import Trainer

NEVER = -math.inf


def test_the_surprise_of_a_rank_is_its_probability_by_chance():
    found = surprise(torch.tensor([0.3, 9.0, -2.0, 5.0]))
    torch.testing.assert_close(found, -torch.tensor([3 / 4, 1 / 4, 4 / 4, 2 / 4], dtype=torch.float64).log())


def test_ties_share_the_mean_of_their_ranks_and_samples_that_are_never_suspected_tie():
    found = surprise(torch.tensor([7.0, NEVER, 7.0, NEVER, NEVER]))
    ranks = torch.tensor([1.5, 4.0, 1.5, 4.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(found, -(ranks / 5).log())


def noisy(accuracies: list[float], count: int = 20_000, poisoned: int = 2_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Members that err independently, each with a share of poison in its top tenth: their surprises, and the truth."""
    generator = torch.Generator().manual_seed(0)
    is_poisoned = torch.zeros(count, dtype=torch.bool)
    is_poisoned[:poisoned] = True
    rows = []
    for accuracy in accuracies:
        scores = torch.rand(count, generator=generator)
        right = torch.randperm(poisoned, generator=generator)[: int(accuracy * poisoned)]
        wrong = poisoned + torch.randperm(count - poisoned, generator=generator)[: poisoned - len(right)]
        scores[torch.cat([right, wrong])] += 1
        rows.append(surprise(scores))
    return torch.stack(rows), is_poisoned


def test_members_weigh_as_far_as_they_are_better_than_chance():
    """By chance a tenth of the top is poisoned: 0.9, 0.6 and 0.3 are 0.8, 0.5 and 0.2 better."""
    surprises, _ = noisy([0.9, 0.6, 0.3])
    weights = agreement_weights(surprises, 0.1)
    torch.testing.assert_close(
        weights / weights[0], torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64) / 0.8, atol=0.06, rtol=0
    )


def test_agreement_is_measured_at_the_top_that_the_rate_names():
    """Two members agree on the first ten of a hundred and then on nothing; the third on none of them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(3, 100, generator=generator, dtype=torch.float64)
    rows[:2, :10] += 1
    narrow, wide = (agreement_weights(rows, rate) for rate in (0.1, 0.9))
    assert narrow[2] < 0.2 * narrow[0]
    assert wide[0] < 0.5 * narrow[0]


def test_a_member_that_is_worse_than_chance_counts_nothing():
    surprises, _ = noisy([0.9, 0.8, 0.0])
    assert agreement_weights(surprises, 0.1)[2] == 0


def test_members_that_agree_on_nothing_and_two_members_count_alike():
    two, _ = noisy([0.9, 0.2])
    assert agreement_weights(two, 0.1).tolist() == [1.0, 1.0]
    apart = torch.zeros(3, 30, dtype=torch.float64)
    for member in range(3):
        apart[member, 10 * member : 10 * member + 3] = 1
    assert agreement_weights(apart, 0.1).tolist() == [1.0, 1.0, 1.0]


def test_a_weighted_sum_beats_its_best_member_when_they_err_independently():
    surprises, is_poisoned = noisy([0.7, 0.65, 0.6, 0.1])
    weights = agreement_weights(surprises, 0.1)
    both = (weights @ surprises).float()
    assert auroc(both, is_poisoned) > max(auroc(member.float(), is_poisoned) for member in surprises)
    together, best = (is_poisoned[select_suspects(scores, 0.05)].float().mean() for scores in (both, surprises[0]))
    assert together > best + 0.1


class One(Detector):
    """Four scores."""

    summary = source = "for this test"

    def score(self, dataset, trainer, given):
        return Scored(torch.tensor([3.0, 2.0, 1.0, 0.0]))


class Other(Detector):
    """Four scores in another order."""

    summary = source = "for this test"

    def score(self, dataset, trainer, given):
        return Scored(torch.tensor([0.0, 3.0, 2.0, 1.0]))


class Nosy(Detector):
    """Notes what it was given."""

    summary = source = "for this test"
    seen: ClassVar[list[Given]] = []

    def score(self, dataset, trainer, given):
        self.seen.append(given)
        return Scored(torch.zeros(len(dataset)))


def test_an_ensemble_is_the_sum_of_its_members_and_shares_their_stages(monkeypatch):
    monkeypatch.setitem(DETECTORS, "one", One)
    monkeypatch.setitem(DETECTORS, "other", Other)
    keeper, made = counting_keeper()
    found = Ensemble((Member("one"), Member("other")), weights="equal").score(
        random_dataset(4), Trainer(keeper=keeper), Given()
    )
    ranks = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 2.0, 3.0]])
    torch.testing.assert_close(found.scores, -(ranks / 4).log().mean(0))
    assert found.notes["weights"].tolist() == [0.5, 0.5]
    assert made == ["detection", "detection"], "a stage per member"


def test_the_members_hyper_parameters_come_from_a_config():
    made = make("detector", "ensemble", {"members": [{"name": "lga", "params": {"epochs": 3}}, {"name": "random"}]})
    assert made == Ensemble((Member("lga", {"epochs": 3}), Member("random")))
    assert made != Ensemble((Member("lga"), Member("random")))


def test_members_are_described_as_their_detectors_are():
    """A parameter that a detector gets later has its default here, and changes no ensemble's hash."""
    ensemble = Ensemble((Member("lga", {"epochs": 3}), Member("random")))
    assert describe(ensemble)["members"] == [f"Member {digest(LGA(epochs=3))}", f"Member {digest(RandomDetector())}"]
    assert ensemble.members[0].params == dataclasses.asdict(LGA(epochs=3)), "all settings are said"


def test_what_an_ensemble_needs_is_what_its_members_need():
    assert Ensemble((Member("lga"), Member("random"))).needs == set()
    assert Ensemble((Member("ln"), Member("strip"))).needs == {"features", "verified", "attacked model"}
    assert Ensemble((Member("oracle"), Member("lga"))).needs == {"truth"}


def test_a_member_is_given_what_it_declares_and_no_more(monkeypatch):
    """The truth that an oracle needs does not reach a member beside it, whose scores are kept although the oracle's are
    not."""
    monkeypatch.setitem(DETECTORS, "nosy", Nosy)
    keeper, made = counting_keeper()
    truth = truth_of([0] * 50, list(range(10)))
    knowing = Ensemble((Member("oracle"), Member("nosy")))
    found = find_scores(knowing, random_dataset(50), Trainer(keeper=keeper), Given(truth=truth))
    assert auroc(found.scores, truth.is_poisoned) == 100
    assert [given.truth for given in Nosy.seen] == [None]
    assert made == ["detection"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"members": (Member("lga"),)}, r"at least two members.*got \['lga'\]"),
        ({"members": (Member("lga"), Member("lga", {"epochs": 3}))}, "each another detector"),
        ({"members": (Member("lga"), Member("lgb"))}, "unknown detector 'lgb'"),
        ({"members": (Member("lga"), Member("random", {"dice": 2}))}, "dice"),
        ({"members": (Member("lga"), Member("ensemble"))}, "no ensembles themselves"),
        ({"weights": "luck"}, "weights.*luck"),
        ({"rate": 0}, "rate.*got 0"),
    ],
)
def test_members_that_cannot_work_together_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Ensemble(**wrong)
