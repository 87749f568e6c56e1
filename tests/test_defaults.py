"""Defaults are part of every hash by being left out: a default that changes needs another `nab.digest.SCHEMA`.

After raising the number, write the snapshot anew and commit it; do so too for a new method or field, whose defaults
are not watched before:

    python tests/test_defaults.py
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from nab.data import Normalization
from nab.digest import SCHEMA
from nab.experiments import RunConfig
from nab.methods import KINDS
from nab.selfsupervised import Views
from nab.stamp import Stamp
from nab.training import Recipe

SNAPSHOT = Path(__file__).with_name("defaults.json")


def as_json(value: Any) -> Any:
    """Strings, lists and mappings from which a value can be told apart from any other, also from 1 and 1.0."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, BaseModel):
        return as_json(value.model_dump())
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [type(value).__name__, *map(as_json, value)]
    assert dataclasses.is_dataclass(value), value
    return {"is": type(value).__name__} | {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}


def defaults_of(cls: type[Any]) -> dict[str, Any]:
    """The default of every field of a dataclass that has one."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = as_json(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = as_json(field.default_factory())
    return found


def current() -> dict[str, Any]:
    """The schema's number, and the defaults of everything that hashes are made of."""
    found: dict[str, Any] = {cls.__name__: defaults_of(cls) for cls in (Recipe, Stamp, Views, Normalization)}
    found["RunConfig"] = {name: as_json(field.default) for name, field in RunConfig.model_fields.items()}
    for name, kind in KINDS.items():
        for method, made in kind.registry.items():
            # A registered instance, such as a recipe, is described by how it differs from its class.
            values = {"is": made.__name__} | defaults_of(made) if isinstance(made, type) else as_json(made)
            found[f"{name} {method}"] = values
    return {"schema": SCHEMA, "defaults": found}


def problems(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What became another default, or is gone, without another schema's number. What is new is no problem."""
    if now["schema"] != before["schema"]:
        return []
    return [
        f"{owner}, {field}: {value!r} became {now['defaults'].get(owner, {}).get(field, 'nothing')!r}"
        for owner, fields in before["defaults"].items()
        for field, value in fields.items()
        if not is_kept(value, now["defaults"].get(owner, {}).get(field))
    ]


def is_kept(value: Any, now: Any) -> bool:
    """Whether a default is the same, but for fields that a nested dataclass has gained."""
    if isinstance(value, dict) and isinstance(now, dict):
        return all(is_kept(inner, now.get(name)) for name, inner in value.items())
    return bool(value == now)


def snapshot() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SNAPSHOT.read_text())
    return found


def test_no_default_changes_without_another_schema():
    found = problems(snapshot(), current())
    assert not found, "raise nab.digest.SCHEMA, then run: python tests/test_defaults.py"


def test_the_snapshot_is_that_of_this_schema():
    """Else it would check nothing."""
    assert snapshot()["schema"] == SCHEMA, "run: python tests/test_defaults.py"


@pytest.mark.parametrize(
    ("change", "is_problem"),
    [
        (lambda d: d["Recipe"].update(lr="0.2"), True),
        (lambda d: d["Recipe"].pop("lr"), True),
        (lambda d: d["Recipe"].update(another=3), False),
        (lambda d: d["defense nab"]["stamp"].update(another="3"), False),
        (lambda d: d["defense nab"]["stamp"].update(size="3"), True),
        (lambda d: d["defense nab"]["stamp"].pop("size"), True),
        (lambda d: d.pop("detector lga"), True),
        (lambda d: d["detector lga"].update(gamma="0.6"), True),
        (lambda d: d["detector lga"].update({"is": "LGA2"}), True),
        (lambda d: d.update({"detector new": {"is": "New"}}), False),
    ],
)
def test_a_default_that_changes_or_goes_is_told_and_a_new_one_is_not(change, is_problem):
    before, now = current(), current()
    now["defaults"] = copy.deepcopy(now["defaults"])
    change(now["defaults"])
    assert bool(problems(before, now)) is is_problem
    assert problems(before, now | {"schema": SCHEMA + 1}) == []


def test_values_of_another_type_are_other_defaults():
    for one, other in ((1, 1.0), (1, True), (1, "1"), ((1,), [1]), (None, "None"), (Stamp(), None)):
        assert as_json(one) != as_json(other)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current(), indent=1) + "\n")
