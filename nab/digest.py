"""Canonical descriptions of values, and the hash of one. What is kept under a hash depends on nothing else."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nab.source_code import NoSource, source_of

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
"""The one version number of whatever is stored: results, stages, deployed networks.

It is raised when the same description comes to mean something else: a method computes other numbers, a default
changes, a field is renamed. `tests/test_defaults.py` fails when a default changes and this number does not.
"""


def describe(value: Any) -> Any:
    """``value`` as JSON says it.

    Tensors, and objects with a ``digest`` (str), are described by content. A dataclass is described by its name and by
    the fields that differ from their defaults, so that a field added later changes no hash.

    A class or function is described by its name. If it is defined outside of this library, of torch and of Python, the
    whole file that defines it belongs to the description, and the files that define its base classes do too. What these
    files import from other files does not, and neither does a global variable that is changed while the program runs.

    Args:
        value: None, bool, int, float, str, Tensor, an object with a ``digest``, a dataclass, a class or function at the
            top of a module, a ``functools.partial``, or a mapping with strings as keys, a list or a tuple of such.

    Raises:
        NoSource: a class or function is a lambda, is defined in a function, has no file, as in a notebook, or is not
            what its file says; or an object can be called.
        TypeError: a value is of another kind, so that two different ones could not be told apart.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type | types.FunctionType):
        return _name(value)
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    if "digest" not in fields and isinstance(digest := getattr(value, "digest", None), str):
        return f"{_name(type(value))} {digest}"
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        _check_fields(value, fields)
        return {"is": _name(kind)} | {field: describe(inner) for field, inner in changed_fields(value).items()}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"expected a mapping whose keys are strings, got {list(value)}")
        return {key: describe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    if isinstance(value, functools.partial):
        return {"call": describe(value.func), "with": describe(value.args), "named": describe(value.keywords)}
    return _described_by_torch(value)


def _check_fields(value: Any, fields: set[str]) -> None:
    """Raise ``TypeError`` if an attribute is no field: a subclass that is not decorated itself may have such."""
    kind = type(value)
    hidden = vars(value).keys() - fields if hasattr(value, "__dict__") else set()
    hidden = {name for name in hidden if not isinstance(getattr(kind, name, None), functools.cached_property)}
    if hidden:
        raise TypeError(
            f"expected every attribute of {kind.__name__} to be a field of a dataclass, got {sorted(hidden)}; decorate "
            "the class with dataclasses.dataclass(frozen=True)"
        )


def changed_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass whose values are not their defaults, by name."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if not _is_default(field, getattr(value, field.name))
    }


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return value is field.default or _is_equal(value, field.default)
    if field.default_factory is not dataclasses.MISSING and isinstance(value, dict | list | tuple):
        return _is_equal(value, field.default_factory())
    return False


def _is_equal(value: Any, default: Any) -> bool:
    """Whether two values are equal, and their parts of the same types: True and 1.0 are no 1."""
    return type(value) is type(default) and bool(value == default) and repr(value) == repr(default)


_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


def _name(value: type | types.FunctionType) -> str:
    """The name; for what is not of `_NAMED`, with a hash of the files that define it and its base classes."""
    name = f"{value.__module__}.{value.__qualname__}"
    if "<" in value.__qualname__:
        raise NoSource(f"expected a class or function at the top of a module, got {name}")
    if _package(value) == "nab":  # a class without the module, which may come to be called otherwise
        return value.__qualname__ if isinstance(value, type) else name
    parts = value.__mro__ if isinstance(value, type) else (value,)
    by_module = {part.__module__: source_of(part) for part in parts if not _is_named(part)}
    return f"{name} {bytes_digest(*by_module.values())}" if by_module else name


def _is_named(value: type | types.FunctionType) -> bool:
    """Whether the name alone tells it apart: it belongs to this library, to torch or to Python itself. What lies in
    Python's own folder is Python's; a name such as ``code`` may be a user's too."""
    if _package(value) in {"nab", "torch"}:
        return True
    module = sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return value.__module__ in sys.builtin_module_names
    path = Path(file)
    return path.is_relative_to(_STANDARD_LIBRARY) and "site-packages" not in path.parts


def _package(value: type | types.FunctionType) -> str:
    return value.__module__.partition(".")[0]


def _described_by_torch(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        dtype, shape = str(value.dtype).removeprefix("torch."), "x".join(map(str, value.shape))
        return f"{dtype} {shape} {tensor_digest(value)}"
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    error = NoSource if callable(value) else TypeError
    raise error(f"expected a value that JSON, its fields or its content can describe, got {type(value).__name__}")


def digest(value: Any) -> str:
    """32 hexadecimal digits that follow from `describe`; the order of a mapping's keys does not matter."""
    return digest_of_description(describe(value))


def digest_of_description(description: Any) -> str:
    """32 hexadecimal digits of what `describe` returned."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return bytes_digest(text.encode())


def tensor_digest(*tensors: Tensor) -> str:
    """32 hexadecimal digits of the tensors' bytes, in row-major order."""
    import torch

    # Seen as bytes because numpy has no bfloat16.
    return bytes_digest(*(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data for t in tensors))


def bytes_digest(*parts: bytes | memoryview) -> str:
    """32 hexadecimal digits of the parts, one after the other."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(part)
    return total.hexdigest()
