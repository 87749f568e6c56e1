"""The file that defines a class or function, if it still says what runs."""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class NoSource(TypeError):  # noqa: N818 - reads as what it says: there is no source code
    """A class or function that cannot be told apart from another one of the same name."""


class _File(NamedTuple):
    """What a file said when it was read for an import, and the code of every function in it, by qualified name."""

    imported: object
    content: bytes
    codes: dict[str, list[types.CodeType]]


_read: dict[Path, _File] = {}
"""Files as they were when they were first asked for: one may change after it was imported."""


def source_of(value: type | types.FunctionType) -> bytes:
    """The file that defines a class or function.

    Raises:
        NoSource: there is none, the module has another object of that name, or the file does not say what runs: it was
            changed after it was imported, or a method was replaced.
    """
    name, module = f"{value.__module__}.{value.__qualname__}", sys.modules.get(value.__module__)
    if _found(module, value.__qualname__) is not value:
        raise NoSource(f"{name} is not what its module has under that name")
    path, imported = Path(getattr(module, "__file__", None) or ""), getattr(module, "__spec__", None) or module
    before = _read.get(path)
    for known in (before if before is not None and before.imported is imported else None, None):
        try:
            file = known or _read_file(path, imported)
        except (OSError, SyntaxError, ValueError):
            raise NoSource(f"{name} has no file that could be read") from None
        if _is_made_of(value, module, file):
            _read[path] = file
            return file.content
    raise NoSource(f"{name} is not what {path} says: the file or the class was changed after the import")


def _read_file(path: Path, imported: object) -> _File:
    content = path.read_bytes()
    return _File(imported, content, _codes(compile(content, str(path), "exec", dont_inherit=True)))


def _found(module: types.ModuleType | None, qualname: str) -> object:
    return functools.reduce(lambda part, name: getattr(part, name, None), qualname.split("."), module)


def _codes(code: types.CodeType) -> dict[str, list[types.CodeType]]:
    """Every code object within another one."""
    found: dict[str, list[types.CodeType]] = {}
    waiting = [code]
    while waiting:
        inner = [const for const in waiting.pop().co_consts if isinstance(const, types.CodeType)]
        for each in inner:
            found.setdefault(each.co_qualname, []).append(each)
        waiting += inner
    return found


def _is_made_of(value: type | types.FunctionType, module: object, file: _File) -> bool:
    """Whether the functions that run are those of the file."""
    if type(getattr(module, "__loader__", None)) is not importlib.machinery.SourceFileLoader:
        return True  # pytest, for example, compiles tests in its own way
    return all(
        function.__code__ in file.codes.get(function.__code__.co_qualname, [])
        and (_is_own(function, value) or not isinstance(value, type))
        for function in _functions(value)
    )


def _functions(value: type | types.FunctionType) -> Iterator[types.FunctionType]:
    """The function, or those that a class defines, without what a decorator puts around them."""
    if not isinstance(value, type):
        yield inspect.unwrap(value)
        return
    for name, attribute in vars(value).items():
        parts = (
            (attribute.fget, attribute.fset, attribute.fdel)
            if isinstance(attribute, property)
            else (getattr(attribute, "__func__", getattr(attribute, "func", attribute)),)
        )
        for part in parts:
            function = inspect.unwrap(part) if callable(part) and not isinstance(part, type) else part
            is_made = name.startswith("__") and not _is_own(function, value)  # by dataclasses, for example
            if isinstance(function, types.FunctionType) and not is_made:
                yield function


def _is_own(function: object, kind: type | types.FunctionType) -> bool:
    if not isinstance(function, types.FunctionType):
        return False
    return function.__code__.co_qualname.startswith(f"{kind.__qualname__}.")
