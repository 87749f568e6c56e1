"""Attacks: one file each. Adding one is a file, a line in `ATTACKS`, and a test file (see CONTRIBUTING.md)."""

from __future__ import annotations

from typing import Any

from nab.attacks.badnets import BadNets
from nab.attacks.base import (
    Attack,
    Poisoned,
    Triggered,
    check_target,
    poison,
    select_poisons,
    to_uint8,
    trigger_all,
)
from nab.attacks.blend import Blend
from nab.registry import build

__all__ = [
    "ATTACKS",
    "Attack",
    "BadNets",
    "Blend",
    "Poisoned",
    "Triggered",
    "check_target",
    "make_attack",
    "poison",
    "select_poisons",
    "to_uint8",
    "trigger_all",
]

ATTACKS: dict[str, type[Attack]] = {
    "badnets": BadNets,
    "blend": Blend,
}


def make_attack(name: str, params: dict[str, Any] | None = None) -> Attack:
    """The attack ``name`` with the hyper-parameters ``params``.

    Raises:
        ConfigError: the name or a parameter is unknown or not valid.
    """
    return build("attack", name, ATTACKS, params)
