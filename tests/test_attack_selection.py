"""Which samples are poisoned, which cover for them, and what labels they get."""

from __future__ import annotations

import pytest
import torch
from helpers import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import BadNets, Triggered, attack_labels, poison, select_covers, select_poisons, trigger_all
from nab.errors import ConfigError


def test_balanced_selection_takes_500_of_each_class_of_cifar10():
    labels = torch.arange(50_000) % 10
    chosen = select_poisons(labels, 0.1, 0, seed=0)
    assert labels[chosen].bincount().tolist() == [500] * 10


@pytest.mark.parametrize(("classes", "count", "eligible"), [(10, 10_000, 9_000), (200, 10_000, 9_950)])
def test_attacks_can_succeed_on_9000_images_of_cifar10_and_9950_of_tiny_imagenet(classes, count, eligible):
    labels = torch.arange(count) % classes
    test = Triggered(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), labels, torch.zeros_like(labels))
    assert int(test.is_eligible.sum()) == eligible


def test_uniform_selection_takes_the_rate_of_all_samples():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.123, 0, seed=0, selection="uniform")
    assert int(chosen.sum()) == 123
    assert labels[chosen].bincount(minlength=10).unique().numel() > 1, "not drawn at random"


def test_exclude_target_selection_leaves_the_target_class_alone():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.2, 7, seed=0, selection="exclude_target")
    assert int(chosen.sum()) == 200
    assert not (labels[chosen] == 7).any()


def test_clean_label_selection_takes_the_rate_of_the_target_class_alone():
    labels = torch.arange(1_000) % 10
    chosen = select_poisons(labels, 0.5, 4, seed=0, clean_label=True)
    assert labels[chosen].tolist() == [4] * 50


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ConfigError, match=r"poison_rate in \(0, 1\), got"):
        select_poisons(torch.arange(100) % 10, rate, 0, seed=0)


@pytest.mark.parametrize("selection", ["balanced", "uniform", "exclude_target"])
def test_a_rate_that_selects_nothing_is_refused(selection):
    with pytest.raises(ConfigError, match=r"0\.001"):
        select_poisons(torch.arange(100) % 10, 0.001, 0, seed=0, selection=selection)


def test_more_poison_than_there_are_candidates_is_refused():
    with pytest.raises(ConfigError, match=r"from 1 to 90 .*which selects 95"):
        select_poisons(torch.arange(100) % 10, 0.95, 0, seed=0, selection="exclude_target")


def test_an_unknown_selection_lists_the_known_ones():
    with pytest.raises(ConfigError, match="balanced, uniform, exclude_target, got 'some'"):
        select_poisons(torch.arange(100) % 10, 0.1, 0, seed=0, selection="some")


@pytest.mark.parametrize("target", [-1, 4, 1.0])
def test_a_target_that_is_no_class_is_refused(noise, target):
    for call in (
        lambda: poison(noise, BadNets(), rate=0.1, target=target, seed=0),
        lambda: trigger_all(noise, BadNets(), target=target, seed=0),
    ):
        with pytest.raises(ConfigError, match="expected target from 0 to 3"):
            call()


def test_all_to_one_answers_the_target_and_all_to_all_the_next_class():
    labels = torch.tensor([0, 1, 2, 2, 3])
    assert attack_labels(labels, 4, 2).tolist() == [2] * 5
    assert attack_labels(labels, 4, 2, "all-to-all").tolist() == [1, 2, 3, 3, 0]
    with pytest.raises(ConfigError, match="all-to-one, all-to-all, got 'two-to-one'"):
        attack_labels(labels, 4, 2, "two-to-one")


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 400), st.floats(0.06, 0.5), st.floats(0, 0.5), st.integers(0, 1_000_000))
def test_covers_are_as_many_as_asked_and_never_poisoned(count, rate, share, seed):
    is_poisoned = select_poisons(torch.arange(count) % 2, rate, 0, seed, selection="uniform")
    wanted = int(share * count + 0.5 + 1e-9)
    if wanted > int((~is_poisoned).sum()):
        with pytest.raises(ConfigError, match=f"got {wanted}"):
            select_covers(is_poisoned, share, seed)
        return
    is_cover = select_covers(is_poisoned, share, seed)
    assert int(is_cover.sum()) == wanted
    assert not (is_cover & is_poisoned).any()


def test_covers_come_from_all_classes_and_differ_by_seed():
    labels = torch.arange(1_000) % 10
    is_poisoned = select_poisons(labels, 0.1, 0, seed=0)
    is_cover = select_covers(is_poisoned, 0.2, seed=0)
    assert int(is_cover.sum()) == 200
    assert labels[is_cover].unique().numel() == 10
    assert not torch.equal(is_cover, select_covers(is_poisoned, 0.2, seed=1))


def test_a_clean_dataset_has_covers_only_where_an_attack_asks_for_them():
    poisoned = poison(random_dataset(100), BadNets(), rate=0.1, target=0, seed=0)
    assert poisoned.truth.is_cover is not None
    assert not poisoned.truth.is_cover.any()
    assert torch.equal(poisoned.truth.is_touched, poisoned.truth.is_poisoned)
