"""Runs compared by their settings: which have wanted values, and what tells runs apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nab.errors import ConfigError
from nab.registry import unknown_name

if TYPE_CHECKING:
    from nab.experiments.config import RunConfig

    Run = tuple[RunConfig, tuple[str, ...]]
    """A run and the studies for which it is made, as `Profile.expand` yields them."""

OF_THE_ATTACK = ("poison_rate", "selection", "label_map", "target")
"""Fields of a run whose usual values depend on the attack."""


def select(runs: Iterable[Run], only: Iterable[tuple[str, Any]]) -> list[Run]:
    """The runs that have the wanted values; several values of one key are alternatives.

    Args:
        runs: of a grid.
        only: pairs of a key and a value. A key is ``study``, a field of `RunConfig` (methods by name), or a method's
            hyper-parameter such as ``detector.epochs`` or ``defense.stamp.size``. Numbers are compared by value.

    Raises:
        ConfigError: a key is unknown, or no run has the values.
    """
    wanted: dict[str, list[Any]] = {}
    for key, value in only:
        wanted.setdefault(key, []).append(value)
    every = list(runs)
    described = [settings_by_key(config.settings) | {"study": studies} for config, studies in every]
    known = {key for keys in described for key in keys}
    for key in wanted:
        if key not in known:
            raise _unknown(key, known)
    chosen = [run for run, keys in zip(every, described, strict=True) if _has(keys, wanted)]
    if not chosen:
        told = ", ".join(f"{key} {' or '.join(str(value) for value in values)}" for key, values in wanted.items())
        raise ConfigError(f"none of the grid's {len(every)} runs has {told}")
    return chosen


def differences(runs: Sequence[Mapping[str, Any]], shown: Collection[str] = ()) -> list[str]:
    """What tells runs apart besides the columns of a table, for each run, in the form that ``--set`` takes.

    A hyper-parameter is compared among the runs whose method has the same name. For two runs with Blend these are
    ``attack.alpha=0.2`` and ``attack.alpha=0.5``. The text is empty where nothing differs.

    Args:
        runs: their settings, as `RunResult.settings` has them.
        shown: the fields that have columns of their own.
    """
    described = [settings_by_key(settings) for settings in runs]
    texts = [
        {(key, _scope(key, keys)): _text(value) for key, value in keys.items() if _counts(key, value, shown)}
        for keys in described
    ]
    values: dict[tuple[str, Any], set[str]] = {}
    for run in texts:
        for key, text in run.items():
            values.setdefault(key, set()).add(text)
    return [" ".join(f"{key[0]}={text}" for key, text in run.items() if len(values[key]) > 1) for run in texts]


def settings_by_key(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a run by one key: methods by name, hyper-parameters as ``detector.epochs``."""
    keys: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            keys[key] = value.get("name", value)
            keys |= settings_by_key(value.get("params", value), f"{key}.")
        else:
            keys[key] = value
    return keys


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _scope(key: str, keys: Mapping[str, Any]) -> Any:
    """The name of the method that the key belongs to; None for what belongs to the whole run."""
    head, dot, _ = key.partition(".")
    return keys[head] if dot else keys["attack"] if key in OF_THE_ATTACK else None


def _counts(key: str, value: Any, shown: Collection[str]) -> bool:
    """Whether a value can tell runs apart: it has no column, and it is neither a mapping nor a field that is unused."""
    return key not in shown and not isinstance(value, Mapping) and (value is not None or "." in key)


def _unknown(key: str, known: Collection[str]) -> ConfigError:
    head, dot, _ = key.partition(".")
    beside = {other for other in known if dot and other.startswith(f"{head}.")}
    return unknown_name("key", key, beside or {other for other in known if "." not in other})


def _has(keys: Mapping[str, Any], wanted: Mapping[str, list[Any]]) -> bool:
    """Whether a run has, for every key, one of the wanted values."""
    return all(
        any(value in keys[key] if key == "study" else _is_same(keys.get(key), value) for value in values)
        for key, values in wanted.items()
    )


def _is_same(found: Any, wanted: Any) -> bool:
    """Whether two values are equal; true is no number."""
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)
