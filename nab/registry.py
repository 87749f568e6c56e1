"""One lookup for everything that has a name: methods of all kinds, and profiles."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from nab.errors import ConfigError, NabError

T = TypeVar("T")


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that is not allowed. It lists the allowed names and suggests the nearest one."""
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

    Values may come from YAML or JSON: lists become tuples and mappings nested dataclasses, as the fields' types ask.

    Raises:
        ConfigError: the name is not registered, or a parameter does not exist or is not valid.
    """
    cls = lookup(kind, name, registry)
    return make_dataclass(f"{kind} {name!r}", cls, params or {})


def make_dataclass(what: str, cls: type[T], params: Mapping[str, Any]) -> T:
    """An instance of the dataclass ``cls``, its fields converted to their types; ``what`` names it in errors.

    Raises:
        ConfigError: a parameter does not exist or is not valid.
    """
    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            raise unknown_name(f"parameter of {what}", key, known)
        kind = hints[key]
        nested = nested_dataclass(kind)
        if inspect.isabstract(kind) or (value is None and nested is not kind):  # a method, or None where allowed
            values[key] = value
        elif nested is not None:
            given = {**_default_of(cls, key, nested), **_as_mapping(what, key, value)}
            values[key] = make_dataclass(f"{what}, {key}", nested, given)
        else:
            try:
                values[key] = TypeAdapter(kind).validate_python(value)
            except ValidationError as error:
                raise ConfigError(f"{what}, parameter {key}: {first_problem(error)}") from None
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None


def nested_dataclass(kind: Any) -> type[Any] | None:
    """The dataclass in a field's type: ``Inner``, or ``Inner | None``; None if the type has none."""
    for part in (kind, *(typing.get_args(kind) if isinstance(kind, types.UnionType) else ())):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def _default_of(cls: type[Any], key: str, nested: type[Any]) -> dict[str, Any]:
    """The fields of a nested dataclass that are the default of field ``key``, which may not be its own defaults."""
    default = next(field.default for field in dataclasses.fields(cls) if field.name == key)
    return dataclasses.asdict(default) if isinstance(default, nested) else {}


def _as_mapping(what: str, key: str, value: Any) -> Mapping[str, Any]:
    """The fields of a nested dataclass, which is given as such or as a mapping."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise ConfigError(f"{what}, parameter {key}: expected a mapping of its fields, got {value!r}")


def first_problem(error: Any) -> str:
    """The first problem of a pydantic ``ValidationError`` in one line."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    message = str(cause) if isinstance(cause, NabError) else f"{problem['msg']}, got {problem['input']!r}"
    return f"{where}: {message}" if where and not isinstance(cause, NabError) else message
