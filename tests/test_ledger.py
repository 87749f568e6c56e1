"""What stages cost: each counts once, and one that was found counts as when it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nab.training import Cost, Memory, Output, Trainer
from nab.training.keeping import Ledger


class Time:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()
    monkeypatch.setattr("nab.training.keeping.time", passing)
    return passing


class Shelf:
    """Keeps outputs in memory as `StageCache` does in files; reading takes time."""

    def __init__(self, time: Time, reading: float = 0.0) -> None:
        self.kept: dict[str, Output] = {}
        self._time, self._reading = time, reading

    def __call__(self, stage: str, inputs: Any, make: Callable[[], Output]) -> Output:
        self._time.now += self._reading
        if stage in self.kept:
            return dataclasses.replace(self.kept[stage], is_found=True)
        self.kept[stage] = make()
        return self.kept[stage]


def stage(trainer: Trainer, time: Time, name: str, seconds: float, *inner: Callable[[], Any]) -> Callable[[], Output]:
    """Asks for a stage that takes so long besides the ``inner`` ones that it asks for."""

    def make() -> Output:
        for ask in inner:
            ask()
        time.now += seconds
        return Output()

    return lambda: trainer.keep(name, {"name": name}, make)


# Stages within stages.


def shared_work(time: Time, shelf: Shelf) -> Trainer:
    """Scores (3 s) and labels (2 s) both ask for a network (60 s), which asks for data (5 s)."""
    trainer = Trainer(keeper=shelf)
    network = stage(trainer, time, "network", 60.0, stage(trainer, time, "data", 5.0))
    for name, seconds in (("scores", 3.0), ("labels", 2.0)):
        stage(trainer, time, name, seconds, network)()
    return trainer


WORK = {"data": 5.0, "network": 60.0, "scores": 3.0, "labels": 2.0}


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ((), set()),
        (("data",), {"data"}),
        (("network", "data"), {"network", "data"}),
        (("scores",), {"scores"}),
        (("labels",), {"labels"}),
        (("scores", "labels", "network", "data"), set(WORK)),
    ],
)
def test_what_stages_share_counts_once_whatever_is_left_in_the_cache(time, left, found):
    """With the scores alone, what they needed is found first and then made again for the labels."""
    shelf = Shelf(time)
    first = shared_work(time, shelf)
    assert first.ledger.seconds == WORK
    assert not any(cost.is_found for cost in first.ledger.costs.values())
    assert time.now == 170.0
    for name in ("scores", "labels"):
        within = {cost.stage: cost.seconds for cost in shelf.kept[name].costs.values()}
        assert within == {key: WORK[key] for key in ("data", "network", name)}
    shelf.kept = {name: output for name, output in shelf.kept.items() if name in left}
    second = shared_work(time, shelf)
    assert second.ledger.seconds == WORK
    assert {cost.stage for cost in second.ledger.costs.values() if cost.is_found} == found


def test_a_stage_is_found_if_this_run_did_not_make_it_before(time):
    trainer = Trainer(keeper=Shelf(time))
    for _ in range(2):
        stage(trainer, time, "network", 60.0)()
    (cost,) = trainer.ledger.costs.values()
    assert (cost.seconds, cost.is_found) == (60.0, False)
    stage(trainer, time, "scores", 3.0, stage(trainer, time, "network", 60.0))()
    assert {cost.stage: cost.is_found for cost in trainer.ledger.costs.values()} == {"network": False, "scores": False}


def test_reading_and_waiting_cost_nothing(time):
    """Every question takes 1000 seconds, in which another process makes the stage perhaps."""
    shelf = Shelf(time, reading=1000.0)
    trainer = shared_work(time, shelf)
    assert trainer.ledger.seconds == WORK
    with trainer.ledger.part("defense"):
        time.now += 7.0
        stage(trainer, time, "network", 60.0)()
    assert trainer.ledger.seconds == WORK | {"defense": 7.0}


def test_describing_the_inputs_is_no_part_of_the_stage_around(time):
    class Slow:
        @property
        def digest(self) -> str:
            time.now += 50.0
            return "0"

    trainer = Trainer(keeper=Shelf(time))
    with trainer.ledger.part("defense"):
        trainer.keep("scores", {"x": Slow()}, Output)
    assert trainer.ledger.seconds == {"defense": 0.0, "scores": 0.0}


def test_a_stage_that_fails_took_time_too(time):
    trainer = Trainer()

    def fail() -> Output:
        time.now += 4.0
        raise RuntimeError

    def outer() -> Output:
        time.now += 2.0
        return trainer.keep("inner", {}, fail)

    with pytest.raises(RuntimeError):
        trainer.keep("outer", {}, outer)
    assert trainer.ledger.seconds == {"inner": 4.0, "outer": 2.0}
    assert stage(trainer, time, "next", 1.0)()
    assert trainer.ledger.seconds == {"inner": 4.0, "outer": 2.0, "next": 1.0}, "nothing is left open"


def test_who_made_a_stage_stays_with_it(time):
    shelf = Shelf(time)
    stage(Trainer(keeper=shelf), time, "network", 60.0)()
    (key,) = shelf.kept["network"].costs
    maker = {"commit": "abc"}
    costs = {key: Cost("network", 60.0, maker=maker)}
    shelf.kept["network"] = dataclasses.replace(shelf.kept["network"], costs=costs)
    trainer = Trainer(keeper=shelf)
    stage(trainer, time, "scores", 3.0, stage(trainer, time, "network", 60.0))()
    assert trainer.ledger.costs[key] == Cost("network", 60.0, is_found=True, maker=maker)
    assert trainer.ledger.seconds == {"network": 60.0, "scores": 3.0}


# Parts that nobody keeps.


def test_parts_of_one_name_add_up(time):
    ledger = Ledger()
    for name, seconds in (("data", 2.0), ("training", 5.0), ("data", 1.0)):
        with ledger.part(name):
            time.now += seconds
        time.now += 0.5
    assert ledger.seconds == {"data": 3.0, "training": 5.0}
    assert not any(cost.is_found for cost in ledger.costs.values())


def test_a_part_within_a_part_of_its_name_counts_besides_it(time):
    ledger = Ledger()
    with ledger.part("training"):
        time.now += 1.0
        with ledger.part("training"):
            time.now += 2.0
        time.now += 4.0
    assert sorted(cost.seconds for cost in ledger.costs.values()) == [2.0, 5.0]


def test_a_part_within_a_stage_is_found_with_it_and_counts_besides_parts_of_this_run(time):
    """Both runs make a first part of the same name."""
    shelf, ledgers = Shelf(time), []
    for _ in range(2):
        trainer = Trainer(keeper=shelf)

        def make(trainer: Trainer = trainer) -> Output:
            with trainer.ledger.part("network"):
                time.now += 60.0
            time.now += 3.0
            return Output()

        with trainer.ledger.part("network"):
            time.now += 8.0
        trainer.keep("scores", {}, make)
        ledgers.append(trainer.ledger)
    for ledger in ledgers:
        assert ledger.seconds == {"network": 68.0, "scores": 3.0}
    assert [cost.seconds for cost in ledgers[1].costs.values() if cost.is_found] == [60.0, 3.0]


def test_a_stage_that_cannot_be_described_is_a_part(time):
    trainer = Trainer(keeper=Memory())

    def make() -> Output:
        time.now += 4.0
        return Output(values={"x": 1})

    for _ in range(2):
        assert trainer.keep("scores", {"function": lambda: 0}, make).values == {"x": 1}
    assert trainer.ledger.seconds == {"scores": 8.0}


TREES: st.SearchStrategy[Any] = st.recursive(
    st.tuples(st.integers(0, 3), st.integers(0, 50), st.just([])),
    lambda inner: st.tuples(st.integers(4, 9), st.integers(0, 50), st.lists(inner, max_size=3)),
    max_leaves=8,
)
"""A stage's number, its seconds, and the stages within it; the same number is the same stage."""


@given(TREES, st.sets(st.integers(0, 9)))
def test_any_tree_of_stages_costs_the_sum_of_its_different_stages(tree, lost):
    """Whatever is lost from the cache between two runs. A stage takes as long as its number says, whoever asks."""
    passing = Time()

    def ask(trainer: Trainer, node: tuple[int, int, list[Any]], inside: frozenset[int] = frozenset()) -> None:
        number, _, inner = node
        if number in inside:
            return  # no stage asks for itself
        parts = [lambda child=child: ask(trainer, child, inside | {number}) for child in inner]
        stage(trainer, passing, f"s{number}", 10.0 + number, *parts)()

    def asked(node: tuple[int, int, list[Any]], inside: frozenset[int] = frozenset()) -> set[int]:
        number, _, inner = node
        if number in inside:
            return set()
        return {number}.union(*(asked(child, inside | {number}) for child in inner))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nab.training.keeping.time", passing)
        shelf = Shelf(passing)
        first = Trainer(keeper=shelf)
        ask(first, tree)
        made = set(shelf.kept)
        assert first.ledger.seconds == {name: 10.0 + int(name[1:]) for name in first.ledger.seconds}
        assert set(first.ledger.seconds) == made <= {f"s{number}" for number in asked(tree)}
        assert sum(first.ledger.seconds.values()) == passing.now - 100.0
        shelf.kept = {name: output for name, output in shelf.kept.items() if int(name[1:]) not in lost}
        second = Trainer(keeper=shelf)
        ask(second, tree)
        assert second.ledger.seconds == {name: 10.0 + int(name[1:]) for name in second.ledger.seconds}


# The keeper in memory.


def output(size: int) -> Output:
    return Output({"x": torch.zeros(size, dtype=torch.uint8)})


def test_the_memory_keeps_so_many_bytes_of_what_was_used_last():
    memory, made = Memory(limit=100), []

    def ask(name: str, size: int) -> bool:
        return memory(name, {}, lambda: made.append(name) or output(size)).is_found

    assert [ask("a", 40), ask("b", 40), ask("a", 40)] == [False, False, True]
    assert not ask("c", 40), "b goes, for a was used since"
    assert [ask("a", 40), ask("c", 40)] == [True, True]
    assert not ask("b", 40)
    assert not ask("large", 500)
    assert ask("large", 500), "the last one stays, whatever its size"
    assert made == ["a", "b", "c", "b", "large"]


def test_the_memory_tells_stages_and_inputs_apart():
    memory = Memory()
    for stage, inputs in (("a", {"x": 1}), ("a", {"x": 2}), ("b", {"x": 1})):
        assert not memory(stage, inputs, lambda: output(1)).is_found
    assert memory("a", {"x": 2}, lambda: output(1)).is_found
