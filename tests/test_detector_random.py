"""The detector that guesses."""

from __future__ import annotations

import torch
from helpers import random_dataset

from nab.detection import RandomDetector, select_suspects
from nab.evaluation import auroc
from nab.needs import Given
from nab.training import Trainer


def test_scores_are_a_ranking_without_ties():
    scores = RandomDetector().score(random_dataset(50), Trainer(), Given()).scores
    assert scores.sort().values.tolist() == list(range(50))


def test_the_ranking_comes_from_the_seed_alone():
    one, same, other = (
        RandomDetector().score(dataset, Trainer(seed=seed), Given()).scores
        for dataset, seed in ((random_dataset(50), 0), (random_dataset(50, seed=9), 0), (random_dataset(50), 1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_its_suspects_are_poisoned_as_often_as_all_samples():
    is_poisoned = torch.arange(4000) % 10 == 0
    scores = RandomDetector().score(random_dataset(4000), Trainer(), Given()).scores
    assert 45 < auroc(scores, is_poisoned) < 55
    assert 0.06 < is_poisoned[select_suspects(scores, 0.25)].float().mean() < 0.14
