"""Digests of classes and functions: by name, and those of others by the files that define them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Sibling, Twin

import nab
from nab.attacks import poison
from nab.digest import describe, digest
from nab.source_code import NoSource
from nab.training import Recipe


def doubled(x: int) -> int:
    return 2 * x


def test_a_class_or_function_is_known_by_name():
    """A class of this library by the name alone, for its module may be renamed."""
    assert describe(Recipe) == "Recipe"
    assert describe(Recipe.effective) == "nab.training.recipe.Recipe.effective"
    assert describe(poison) == "nab.attacks.base.poison"
    assert describe(torch.nn.Linear) == "torch.nn.modules.linear.Linear"
    assert describe(functools.wraps) == "functools.wraps"
    assert describe(doubled).startswith(f"{__name__}.doubled ")
    assert digest(Twin) != digest(Sibling)


def test_what_is_called_with_arguments_is_told_apart_by_them():
    one = functools.partial(doubled, 1)
    assert digest(one) == digest(functools.partial(doubled, 1))
    others = [functools.partial(doubled, 2), functools.partial(doubled, x=1), doubled, functools.partial(Twin, 1)]
    assert len({digest(other) for other in [one, *others]}) == 5


class Outer:
    class Inner:
        pass


def test_only_what_is_at_the_top_of_a_file_can_be_told_apart(monkeypatch):
    """Two lambdas have one name, classes in a function may see other variables, and a notebook has no file."""

    class Local:
        pass

    assert describe(Outer.Inner).startswith(f"{__name__}.Outer.Inner ")
    for value in (lambda: 0, Local, Local(), [Local]):
        with pytest.raises(TypeError):
            digest(value)
    for value in (lambda: 0, Local):
        with pytest.raises(NoSource, match=r"at the top of a module, got .*<locals>"):
            digest(value)
    notebook = types.ModuleType("__main__")
    exec("class Cell: pass\ndef cell(): pass", vars(notebook))
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    for value in (notebook.Cell, notebook.cell):
        with pytest.raises(NoSource, match=r"__main__.[Cc]ell has no file"):
            digest(value)


def test_what_can_be_called_and_is_no_class_or_function_cannot_be_told_apart():
    function: Any = doubled  # mypy does not know the `__call__` of a function
    for value in (len, function.__call__, torch.nn.ReLU()):
        with pytest.raises(NoSource, match=f"got {type(value).__name__}"):
            digest(value)


BASE, METHOD = (
    "import abc\nclass Base(abc.ABC):\n    pass\n",
    "import base\nK = 1\nclass Method(base.Base):\n    pass\n",
)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Iterator[Callable[..., str]]:
    """Writes two files, imports them anew, and hands back the digest of the class in the second."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest_of(base: str = BASE, method: str = METHOD) -> str:
        (tmp_path / "base.py").write_text(base)
        (tmp_path / "method.py").write_text(method)
        for name in ("base", "method"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return digest(importlib.import_module("method").Method)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield digest_of
    for name in ("base", "method"):
        sys.modules.pop(name, None)


def test_a_users_class_is_its_file_and_those_of_its_bases(files):
    """Whatever else stands in a file may matter to the class: a constant, a helper, a comment even."""
    one = files()
    assert files() == one
    changed = {
        files(method=METHOD.replace("K = 1", "K = 2")),
        files(method=METHOD + "\n# a comment\n"),
        files(base=BASE.replace("pass", "x = 1")),
    }
    assert len(changed | {one}) == 4


def test_a_file_that_changes_after_it_was_read_is_still_the_one_that_runs(files, tmp_path):
    one = files()
    method = sys.modules["method"].Method
    (tmp_path / "method.py").write_text(METHOD + "x = 5\n")
    assert digest(method) == one


def classes_of_the_library() -> list[type]:
    found: dict[type, None] = {}
    for module in pkgutil.walk_packages(nab.__path__, "nab."):
        if not module.name.endswith("__main__"):
            here = vars(importlib.import_module(module.name)).values()
            found |= {value: None for value in here if isinstance(value, type) and value.__module__ == module.name}
    return list(found)


def test_no_two_classes_of_the_library_have_one_name():
    """Their modules are no part of their names, so two of one name could get each other's networks."""
    names = [kind.__qualname__ for kind in classes_of_the_library()]
    assert len(names) > 100
    assert sorted(set(names)) == sorted(names)
