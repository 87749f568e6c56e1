"""One lookup for everything that has a name: attacks, detectors, labellers, defences, datasets, models, profiles."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from nab.errors import ConfigError

T = TypeVar("T")


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that is not registered: it lists what is, and the nearest one."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"unknown {kind} {str(name)!r}: expected one of {', '.join(names)}{hint}")


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """``registry[name]``.

    Raises:
        ConfigError: the name is not registered; the message lists the valid names.
    """
    try:
        return registry[name]
    except (KeyError, TypeError):
        raise unknown_name(kind, name, registry) from None


def build(kind: str, name: str, registry: Mapping[str, type[T]], params: Mapping[str, Any] | None = None) -> T:
    """An instance of the registered dataclass ``name`` with the hyper-parameters ``params``.

    Raises:
        ConfigError: the name is not registered, or a parameter does not exist or is not valid.
    """
    cls = lookup(kind, name, registry)
    known = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in params or {}:
        if key not in known:
            raise unknown_name(f"parameter of {kind} {name!r}", key, known)
    return cls(**(params or {}))
