"""Needs: a method is handed what it declared, and nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import fresh, random_dataset, truth_of

from nab.errors import ConfigError
from nab.needs import NEEDS, Given, Suspicion, check_needs, check_verified
from nab.training import Trained

SUSPICION = Suspicion(torch.arange(4.0), torch.arange(4) > 2, torch.tensor([3, 2, 1, 0]))
VERIFIED = random_dataset(8, seed=1)
ENCODER = fresh(VERIFIED)
ATTACKED = Trained(fresh(VERIFIED, seed=1), [], 1.0)
TRUTH = truth_of([0, 1, 2, 3], [3])
EVERYTHING = Given(SUSPICION, VERIFIED, ENCODER, ATTACKED, TRUTH)


@pytest.mark.parametrize("needs", [set(some) for count in range(7) for some in itertools.combinations(NEEDS, count)])
def test_exactly_what_was_declared_is_handed_over(needs):
    given = EVERYTHING.only(needs)
    has_suspicion = bool(needs & {"suspects", "pseudo labels"})
    assert (given.suspicion is not None) is has_suspicion
    if given.suspicion is not None:
        assert torch.equal(given.suspicion.scores, SUSPICION.scores)
        assert torch.equal(given.suspicion.is_suspect, SUSPICION.is_suspect)
        assert (given.suspicion.pseudo_labels is not None) is ("pseudo labels" in needs)
    for name, need in (("verified", "verified"), ("encoder", "features"), ("attacked", "attacked model")):
        assert (getattr(given, name) is getattr(EVERYTHING, name)) is (need in needs)
        assert (getattr(given, name) is None) is (need not in needs)
    assert (given.truth is not None) is ("truth" in needs)
    assert given.only(needs).inputs.keys() == given.inputs.keys()


def test_what_is_given_can_be_asked_for_and_what_is_not_is_an_error():
    asks = {
        "require_suspicion": ("suspicion", "suspected samples"),
        "require_verified": ("verified", "verified images"),
        "require_encoder": ("encoder", "self-supervised features"),
        "require_attacked": ("attacked", "the attacked model"),
        "require_truth": ("truth", "the truth"),
    }
    for ask, (name, told) in asks.items():
        assert getattr(EVERYTHING, ask)() is getattr(EVERYTHING, name)
        with pytest.raises(ConfigError, match=f"expected {told} among what the method is given, got none"):
            getattr(Given(), ask)()


def test_the_truth_is_no_part_of_a_key():
    assert "truth" not in EVERYTHING.inputs
    assert set(EVERYTHING.inputs) == {"suspicion", "verified", "encoder", "attacked"}
    assert Given().inputs == {}, "a need that is added later changes no key"


def test_suspects_get_their_pseudo_labels_and_others_keep_theirs():
    dataset = random_dataset(4)
    assert SUSPICION.relabeled(dataset).labels.tolist() == [0, 1, 2, 0]
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="got suspects alone: name a labeler"):
        Suspicion(SUSPICION.scores, SUSPICION.is_suspect).relabeled(dataset)


def test_only_known_needs_can_be_declared():
    assert check_needs(["suspects", "suspects"]) == {"suspects"}
    with pytest.raises(ConfigError, match=r"unknown need \['monitor'\]: expected some of suspects, .*truth"):
        check_needs({"monitor", "truth"})


@pytest.mark.parametrize("other", [{"size": 16}, {"channels": 1}, {"classes": 5}])
def test_verified_data_must_be_like_the_training_set(noise, other):
    with pytest.raises(ConfigError, match="classes and image size of the training set"):
        check_verified("X", random_dataset(**other), noise)


def test_verified_data_must_be_there_and_more_than_one_image(noise):
    assert check_verified("X", noise, noise) is noise
    with pytest.raises(ConfigError, match=r"X needs verified data: pass .*as verified"):
        check_verified("X", None, noise)
    with pytest.raises(ConfigError, match="X needs verified data of at least two images, got 1"):
        check_verified("X", noise.subset(torch.tensor([0])), noise)
