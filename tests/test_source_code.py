"""Keys of a user's code: the file counts only if it says what runs."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from nab.digest import digest
from nab.models import Custom
from nab.source_code import NoSource

TEXT = """
import dataclasses
import functools


def around(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)

    return inner


@dataclasses.dataclass(frozen=True)
class Method:
    factor: int = 1

    def score(self, x):
        return x * 1

    @around
    def decorated(self, x):
        return x

    @property
    def half(self):
        return self.factor / 2

    @functools.cached_property
    def third(self):
        return self.factor / 3

    @staticmethod
    def plain(x):
        return x

    @classmethod
    def make(cls):
        return cls()


def function(x):
    return x


def other(self, x):
    return -x


def factory(slope):
    @functools.wraps(function)
    def inner(x):
        return x * slope

    return inner
"""


@pytest.fixture
def written(tmp_path, monkeypatch) -> Iterator[Callable[..., ModuleType]]:
    """Writes a module and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str = TEXT, *, imports: bool = True) -> ModuleType:
        (tmp_path / "theirs.py").write_text(text)
        if imports:
            sys.modules.pop("theirs", None)
            importlib.invalidate_caches()
            importlib.import_module("theirs")
        return sys.modules["theirs"]

    yield write
    sys.modules.pop("theirs", None)


def test_what_the_file_says_is_known_however_it_is_decorated(written):
    theirs = written()
    assert digest(theirs.Method()) == digest(theirs.Method(1))
    assert digest(theirs.Method) != digest(theirs.function)


def test_code_that_was_edited_after_its_import_is_not_told_by_the_new_file(written):
    """What runs is the old code; under the new file's key it would be found by who imports the new one."""
    theirs = written()
    written(TEXT.replace("x * 1", "x * 2"), imports=False)
    with pytest.raises(NoSource, match=r"theirs\.Method is not what .*theirs\.py says"):
        digest(theirs.Method)
    old = digest(written().Method)
    assert digest(written(TEXT.replace("x * 1", "x * 2")).Method) != old


def test_a_file_that_changes_after_it_was_asked_for_is_the_one_that_runs(written):
    theirs = written()
    old = digest(theirs.Method)
    written(TEXT.replace("x * 1", "x * 2"), imports=False)
    assert digest(theirs.Method) == old
    importlib.reload(theirs)
    assert digest(theirs.Method) != old


@pytest.mark.parametrize("replacement", ["other", "factory", "lambda"])
def test_a_method_that_was_replaced_is_not_told_by_the_file(written, replacement):
    theirs = written()
    known = digest(theirs.Method)
    own = theirs.Method.score
    theirs.Method.score = {"other": theirs.other, "factory": theirs.factory(2), "lambda": lambda self, x: x}[
        replacement
    ]
    with pytest.raises(NoSource, match=r"theirs\.Method is not what"):
        digest(theirs.Method)
    theirs.Method.score = own
    assert digest(theirs.Method) == known


def test_two_objects_of_one_name_are_not_told_apart_and_refused(written):
    theirs = written()
    with pytest.raises(NoSource, match=r"theirs\.function is not what its module has under that name"):
        digest(theirs.factory(2))
    made = type("Method", (), {"__module__": "theirs", "__qualname__": "Method"})
    with pytest.raises(NoSource, match="not what its module has"):
        digest(made)


SCRIPT = """
# A method in a script, and a worker of loky that is asked for its key.
import dataclasses, sys
from loky import ProcessPoolExecutor
from nab.digest import digest
from nab.source_code import NoSource

@dataclasses.dataclass(frozen=True)
class Mine:
    def score(self):
        return 1

def key(method):
    try:
        return digest(method)
    except NoSource:
        return "none"

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        print(key(Mine()), pool.submit(key, Mine()).result())
"""


def test_a_method_of_a_script_has_no_key_in_a_worker_whose_script_is_another_one(tmp_path):
    found = []
    for value in ("1", "2"):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.replace("return 1", f"return {value}"))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=os.environ)
        found.append(done.stdout.split())
    (one, in_worker), (two, in_other) = found
    assert one != two
    assert (in_worker, in_other) == ("none", "none")


@dataclasses.dataclass(frozen=True)
class Sloped(Custom):
    """A custom architecture with a field of its own."""

    slope: float = 0.0


def tiny(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, num_classes))


def test_fields_and_class_of_what_inherits_a_digest_are_in_the_key():
    keys: set[Any] = {digest(Sloped(function=tiny, slope=slope)) for slope in (0.0, 5.0)}
    assert len(keys | {digest(Custom(function=tiny))}) == 3


@dataclasses.dataclass(frozen=True)
class Counted:
    """Has a tuple as its default."""

    n: tuple[Any, ...] = (1,)


def test_true_and_one_are_two_values():
    assert len({digest(Counted(n)) for n in ((1,), (True,), (1.0,))}) == 3
