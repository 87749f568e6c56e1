"""What was found in the cache counts with what it cost."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nab.training import Context, Output
from nab.training.clock import Clock


class Time:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Time:
    passing = Time()
    monkeypatch.setattr("nab.training.clock.time", passing)
    return passing


def test_parts_add_up_in_the_order_in_which_they_began(time):
    clock = Clock()
    for name, seconds in (("data", 2.0), ("training", 5.0), ("data", 1.0)):
        with clock.part(name):
            time.now += seconds
        time.now += 0.5
    assert clock.seconds == {"data": 3.0, "training": 5.0}
    assert list(clock.seconds) == ["data", "training"]
    assert clock.now == 9.5


def test_a_part_within_a_part_counts_in_both(time):
    clock = Clock()
    with clock.part("outer"):
        time.now += 1.0
        with clock.part("inner"):
            time.now += 2.0
    assert clock.seconds == {"outer": 3.0, "inner": 2.0}


def test_a_part_that_fails_took_time_too(time):
    clock = Clock()

    def fail() -> None:
        with clock.part("training"):
            time.now += 4.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert clock.seconds == {"training": 4.0}


def test_what_was_read_in_a_moment_counts_as_it_cost(time):
    clock = Clock()
    with clock.part("training"):
        time.now += 1.0
        since = clock.now
        time.now += 0.01
        clock.count_as(60.0, since)
        time.now += 2.0
    assert clock.seconds["training"] == pytest.approx(63.0)
    assert clock.now == pytest.approx(63.0)


def test_waiting_for_another_process_does_not_count(time):
    clock = Clock()
    since = clock.now
    time.now += 1000.0
    clock.count_as(7.0, since)
    assert clock.now == pytest.approx(7.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans()), max_size=6))
def test_the_whole_is_the_sum_of_what_was_done_and_what_was_found(pieces):
    passing = Time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nab.training.clock.time", passing)
        clock = Clock()
        for real, cost, is_found in pieces:
            with clock.part("part"):
                since = clock.now
                passing.now += real
                if is_found:
                    clock.count_as(cost, since)
        expected = sum(cost if is_found else real for real, cost, is_found in pieces)
        assert clock.now == pytest.approx(expected, abs=1e-6)
        assert clock.seconds.get("part", 0.0) == pytest.approx(expected, abs=1e-6)


def test_a_context_counts_found_stages_and_times_made_ones(time):
    kept: dict[str, Output] = {}

    def keeper(stage, inputs, make):
        if stage not in kept:
            kept[stage] = make()
            return kept[stage]
        return Output(kept[stage].tensors, kept[stage].values, kept[stage].seconds, is_found=True)

    def make() -> Output:
        time.now += 30.0
        return Output(values={"x": 1})

    totals = []
    for found in ([], ["scores"]):
        context = Context(keeper=keeper)
        with context.stage("detection"):
            assert context.keep("scores", {}, make).values == {"x": 1}
        assert context.clock.found == found
        totals.append((context.clock.now, context.clock.seconds))
    assert totals[0] == totals[1] == (30.0, {"detection": 30.0})
    assert time.now == 130.0, "made once"
    assert kept["scores"].seconds == 30.0


class Shelf:
    """Keeps outputs in memory, as `StageCache` does in files."""

    def __init__(self) -> None:
        self.kept: dict[str, Output] = {}

    def __call__(self, stage, inputs, make):
        if stage in self.kept:
            return dataclasses.replace(self.kept[stage], is_found=True)
        self.kept[stage] = dataclasses.replace(make(), key=stage)
        return self.kept[stage]


def shared_work(time, shelf: Shelf) -> Context:
    """Scores (3 s) and labels (2 s) both ask for a network (60 s), which asks for data (5 s)."""
    context = Context(keeper=shelf)

    def stage(name: str, seconds: float, inner=None):
        def make() -> Output:
            if inner is not None:
                inner()
            time.now += seconds
            return Output()

        return lambda: context.keep(name, {}, make)

    network = stage("network", 60.0, stage("data", 5.0))
    for name, seconds in (("scores", 3.0), ("labels", 2.0)):
        with context.stage(name):
            stage(name, seconds, network)()
    return context


@pytest.mark.parametrize(
    "left", [(), ("data",), ("network", "data"), ("scores",), ("labels",), ("scores", "labels", "network", "data")]
)
def test_what_stages_share_counts_once_whatever_is_left_in_the_cache(time, left):
    shelf = Shelf()
    first = shared_work(time, shelf)
    assert first.clock.now == 70.0
    assert first.clock.seconds == {"scores": 68.0, "labels": 2.0}
    assert shelf.kept["scores"].seconds == 3.0
    assert dict(shelf.kept["scores"].within) == dict(shelf.kept["labels"].within) == {"data": 5.0, "network": 60.0}
    shelf.kept = {name: output for name, output in shelf.kept.items() if name in left}
    second = shared_work(time, shelf)
    assert second.clock.now == pytest.approx(70.0)
    assert second.clock.seconds == pytest.approx(first.clock.seconds)


def test_only_one_of_two_stages_that_nobody_keeps_is_not_enough(time):
    """Without a key, the same name twice is the same work twice."""
    context = Context()

    def make() -> Output:
        time.now += 4.0
        return Output()

    for _ in range(2):
        context.keep("scores", {}, make)
    assert context.clock.now == context.clock.costs == 8.0
