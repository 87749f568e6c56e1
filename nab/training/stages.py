"""Stages: pieces of work whose output is worth keeping. Who keeps it, and where, is decided in `nab.experiments`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """What a stage hands on: tensors on the CPU, and plain values as JSON has them.

    Attributes:
        tensors: by name.
        values: by name; numbers, strings, lists and mappings.
        seconds: what it alone cost to make, without the stages within; filled in by whoever keeps it, as are the next.
        within: the seconds of the stages that it asked for, and of theirs, by key.
        key: its own; None if it is not kept.
        is_found: whether it was read rather than made.
        maker: of one that was read, what made it: the library's commit, the version of torch, and so on.
    """

    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    within: Mapping[str, float] = dataclasses.field(default_factory=dict)
    key: str | None = None
    is_found: bool = False
    maker: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Keeper = Callable[[str, Mapping[str, Any], Callable[[], Output]], Output]
"""Called with a stage's name, everything that its output depends on (see `nab.digest.describe`), and what makes it."""


def keep_nothing(stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
    """The `Keeper` of a method that is used alone: makes the output every time."""
    return make()
