"""Stages: pieces of work whose output is worth keeping, and what they cost.

A run keeps outputs in the cache of `nab.experiments`. A method that is used alone keeps them in memory.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from nab.digest import digest


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a stage cost when it was made.

    Attributes:
        stage: its name.
        seconds: wall time, without the time of stages within it.
        is_found: whether this run read the stage and did not make it.
        maker: for a stage that was read, what made it: the library's commit, the version of torch, and so on.
    """

    stage: str
    seconds: float
    is_found: bool = False
    maker: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """What a stage hands on: tensors on the CPU, and plain values as JSON has them.

    Attributes:
        tensors: by name.
        values: by name; numbers, strings, lists and mappings.
        costs: by key, the costs of the stage and of the stages within it. `Trainer.keep` fills them in.
        is_found: whether the output was read and not made. The keeper fills it in.
    """

    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    is_found: bool = False


Keeper = Callable[[str, Mapping[str, Any], Callable[[], Output]], Output]
"""Called with the name of a stage, with everything that its output depends on (see `nab.digest.describe`), and with a
function that makes the output."""


class Memory:
    """The `Keeper` of a method that is used alone: the last outputs stay in memory.

    Args:
        limit: bytes of tensors; the output that was not used for the longest time is dropped when there are more.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Output] = OrderedDict()

    def __call__(self, stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        key = digest({**inputs, "stage": stage})
        if key in self._kept:
            self._kept.move_to_end(key)
            return dataclasses.replace(_copied(self._kept[key]), is_found=True)
        output = make()
        self._kept[key] = _copied(output)  # whoever gets it may write into it
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._limit:
            self._kept.popitem(last=False)
        return output


def _size(output: Output) -> int:
    """Bytes."""
    return sum(tensor.nbytes for tensor in output.tensors.values())


def _copied(output: Output) -> Output:
    """The output with tensors and values of its own."""
    tensors = {name: tensor.clone() for name, tensor in output.tensors.items()}
    return dataclasses.replace(output, tensors=tensors, values=copy.deepcopy(dict(output.values)))


class Ledger:
    """What the stages of a run cost: each counts once, however often it is asked for, and as when it was made.

    Attributes:
        costs: by key, in the order in which the stages ended.
    """

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self._open = [_Frame("")]

    @contextmanager
    def making(self, stage: str, key: str) -> Iterator[dict[str, Cost]]:
        """A block that makes a stage.

        It yields a dictionary, which is filled at the end of the block with the cost of the stage and of the stages
        within it.
        """
        frame = _Frame(key)
        self._open.append(frame)
        costs: dict[str, Cost] = {}
        try:
            yield costs
        finally:
            self._open.pop()
            own = Cost(stage, time.perf_counter() - frame.began - frame.seconds_within)
            self.costs[key] = own
            costs.update(frame.within | {key: own})
            for each, cost in costs.items():  # a stage that failed counts in the one around it, which went on
                self._open[-1].within.setdefault(each, cost)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A block that asks for a stage. Its time is no part of the cost of the stage around it."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._open[-1].seconds_within += time.perf_counter() - began

    @contextmanager
    def part(self, stage: str) -> Iterator[None]:
        """A block that makes something that nobody keeps; it counts every time."""
        around = self._open[-1]
        around.parts += 1
        key = f"{around.key}/{around.parts} {stage}"  # no other run's, if a kept stage is around it
        with self.asking(), self.making(stage, key) as costs:
            yield
        self.count(Output(costs=costs))

    def count(self, output: Output) -> None:
        """Count a stage that somebody asked for, and those within it."""
        for key, cost in output.costs.items():
            found = dataclasses.replace(cost, is_found=True) if output.is_found else cost
            first = self.costs.setdefault(key, found)
            self._open[-1].within.setdefault(key, first)

    @property
    def seconds(self) -> dict[str, float]:
        """The cost of all stages by name; those of one name are added up."""
        total: dict[str, float] = {}
        for cost in self.costs.values():
            total[cost.stage] = total.get(cost.stage, 0.0) + cost.seconds
        return total


class _Frame:
    """A stage that is being made.

    Attributes:
        key: of the stage.
        began: when.
        seconds_within: how long stages were asked for within it.
        within: what these cost.
        parts: how many parts began within it that nobody keeps.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.began = time.perf_counter()
        self.seconds_within = 0.0
        self.within: dict[str, Cost] = {}
        self.parts = 0
