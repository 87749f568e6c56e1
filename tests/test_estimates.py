"""How long a run will take, from those that have finished."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import result_of
from hypothesis import given
from hypothesis import strategies as st

from nab.experiments import Method, RunConfig
from nab.experiments.estimates import Estimates

NAB: dict[str, Any] = {"defense": {"name": "nab"}, "detector": {"name": "lga"}, "labeler": {"name": "vd"}}


def add(known: Estimates, seconds: float, device: str | None = None, **run: Any) -> None:
    """A run that has finished."""
    known.add(RunConfig(**run).settings, seconds, device)


def test_the_most_similar_runs_decide():
    known = Estimates()
    assert known.expected(RunConfig()) is None
    assert known.at_most(RunConfig()) is None
    add(known, 100.0, seed=1, attack={"name": "blend"})
    assert known.expected(RunConfig()) == 100.0, "another attack is better than nothing"
    for seed, seconds in enumerate((10.0, 11.0, 30.0)):
        add(known, seconds, seed=seed)
    assert known.expected(RunConfig(seed=9)) == 17.0
    assert known.at_most(RunConfig(seed=9)) == 30.0
    assert known.expected(RunConfig(seed=9, attack=Method(name="wanet"))) == 37.75
    assert known.at_most(RunConfig(seed=9, attack=Method(name="wanet"))) == 100.0


@pytest.mark.parametrize(
    "other",
    [
        NAB,
        {"dataset": {"name": "digits", "params": {"train_size": 500}}},
        {"dataset": {"name": "folder"}},
        {"model": {"name": "resnet18", "params": {"width": 8}}},
        {"model": {"name": "resnet9"}},
        {"recipe": {"name": "paper", "params": {"epochs": 3}}},
    ],
    ids=str,
)
def test_a_run_of_another_kind_says_nothing(other):
    known = Estimates([result_of(RunConfig())])
    assert known.expected(RunConfig(**other)) is None


def test_what_a_method_is_given_may_make_it_longer():
    """Here the encoder's epochs; a detector's are of the wider kind, for some are better than none."""
    known = Estimates([result_of(RunConfig(**NAB | {"labeler": {"name": "nc"}}))])
    longer = NAB | {"labeler": {"name": "nc"}, "encoder": {"name": "simclr", "params": {"epochs": 1000}}}
    assert known.expected(RunConfig(**longer)) is None
    assert known.expected(RunConfig(**NAB)) is None, "nothing is known of runs without an encoder"
    add(known, 5.0, **NAB)
    add(known, 50.0, **NAB | {"detector": {"name": "lga", "params": {"epochs": 90}}})
    assert known.expected(RunConfig(**NAB)) == 5.0


def test_runs_on_another_kind_of_device_say_nothing():
    results = [result_of(RunConfig())]
    kind = results[0].device["type"]
    assert Estimates(results, kind).expected(RunConfig()) == Estimates(results).expected(RunConfig()) is not None
    assert Estimates(results, "cuda" if kind == "cpu" else "cpu").expected(RunConfig()) is None


def test_runs_on_this_processor_are_asked_before_those_on_another():
    known = Estimates(name="this")
    add(known, 60.0, "another")
    assert known.expected(RunConfig()) == 60.0, "better than nothing"
    add(known, 10.0, "this", attack={"name": "blend"})
    assert known.expected(RunConfig()) == 60.0, "of the same kind, though elsewhere"
    add(known, 5.0, "this", seed=1)
    assert known.expected(RunConfig()) == known.at_most(RunConfig()) == 5.0


def test_another_detector_is_wider_than_another_attack():
    known = Estimates()
    add(known, 5.0, **NAB | {"detector": {"name": "oracle"}})
    assert known.expected(RunConfig(**NAB)) == 5.0
    add(known, 50.0, **NAB, attack={"name": "blend"})
    assert known.expected(RunConfig(**NAB)) == 50.0


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9))
def test_the_expected_time_lies_among_those_seen_and_never_above_the_longest(seconds):
    known = Estimates()
    for seed, value in enumerate(seconds):
        add(known, value, seed=seed)
    config = RunConfig(seed=99)
    within = known.expected(config)
    assert min(seconds) <= within or within == pytest.approx(min(seconds))
    assert within <= max(seconds) or within == pytest.approx(max(seconds))
    assert known.at_most(config) == max(seconds)


def test_what_counts_is_what_runs_took_and_not_what_their_stages_cost():
    """One of three paid for what all share; were the others' price counted, a short budget would never start them."""
    result = result_of(RunConfig()).model_copy(update={"cost": {"training": 95.0}})
    known = Estimates([result.model_copy(update={"wall_seconds": seconds}) for seconds in (90.0, 6.0, 6.0)])
    assert known.expected(RunConfig(seed=9)) == 34.0
    assert known.at_most(RunConfig(seed=9)) == 90.0
