"""Errors are the user's to mend: they name the value, what was allowed, and the nearest valid name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nab.checks import check_choice, check_count, check_positive, check_range, check_whole
from nab.errors import ConfigError, DataError, NabError, ResultError
from nab.methods import KINDS, make
from nab.registry import build, lookup, make_dataclass, nested_dataclass
from nab.training import RECIPES, Recipe


def test_every_error_can_be_caught_as_value_error():
    for kind in (NabError, ConfigError, DataError, ResultError):
        assert issubclass(kind, NabError)
        assert issubclass(kind, ValueError)


def test_unknown_name_lists_the_valid_ones_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        lookup("fruit", "aple", {"apple": 1, "pear": 2})
    assert str(caught.value) == "unknown fruit 'aple': expected one of apple, pear; did you mean 'apple'?"


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(ConfigError, match=r"expected one of apple, pear$"):
        lookup("fruit", "zzzzz", {"apple": 1, "pear": 2})


def test_a_name_that_cannot_be_a_key_is_unknown_not_a_crash():
    with pytest.raises(ConfigError, match="unknown fruit"):
        lookup("fruit", ["apple"], {"apple": 1})  # type: ignore[arg-type]


# Methods by name.


def test_every_method_of_every_kind_is_made_by_name():
    """And says what it is."""
    assert set(KINDS) == {"dataset", "attack", "defense", "detector", "labeler", "encoder", "model", "recipe"}
    for name, kind in KINDS.items():
        assert kind.name == name
        assert kind.registry
        assert kind.description
        assert kind.plural
        for method, registered in kind.registry.items():
            assert make(name, method) == (registered() if isinstance(registered, type) else registered)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_what_it_knows(kind):
    first = min(KINDS[kind].registry)
    with pytest.raises(ConfigError, match=f"unknown {kind} 'no such method': expected one of {first}"):
        make(kind, "no such method")
    with pytest.raises(ConfigError, match=f"unknown parameter of {kind} '{first}' 'no_such'"):
        make(kind, first, {"no_such": 1})


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown kind of method 'detectors'.*did you mean 'detector'"):
        make("detectors", "lga")


def test_a_recipe_has_the_values_of_its_name_but_for_those_that_are_given():
    assert make("recipe", "quick") == RECIPES["quick"]
    assert make("recipe", "quick", {"epochs": 3}) == dataclasses.replace(RECIPES["quick"], epochs=3)
    assert make("recipe", "paper", {"milestones": [1, 2]}) == Recipe(milestones=(1, 2))
    with pytest.raises(ConfigError, match=r"epochs.*got 0"):
        make("recipe", "quick", {"epochs": 0})


# Checks.


@pytest.mark.parametrize("value", [0.0, 1.0, -3, math.nan, "0.5", None, True])
def test_check_range_refuses_what_lies_outside_or_is_no_number(value):
    with pytest.raises(ConfigError, match=r"expected rate in \(0, 1\), got") as caught:
        check_range("rate", value, 0, 1, include_low=False, include_high=False)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_check_range_keeps_the_ends_of_a_closed_interval(value):
    check_range("rate", value, 0, 1)


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_check_positive_refuses_what_is_no_count(value):
    with pytest.raises(ConfigError, match="whole number of at least 1") as caught:
        check_positive("epochs", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [-1, 1.0, "3", True, None])
def test_check_count_refuses_what_is_no_count(value):
    check_count("epochs", 0)
    with pytest.raises(ConfigError, match="whole number of at least 0") as caught:
        check_count("epochs", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [1, 4097, 2.0, "3", True, None])
def test_check_whole_refuses_what_lies_outside_or_is_not_whole(value):
    for inside in (2, 4096):
        check_whole("width", inside, 2, 4096)
    with pytest.raises(ConfigError, match="whole number from 2 to 4,096") as caught:
        check_whole("width", value, 2, 4096)
    assert repr(value) in str(caught.value)


def test_check_choice_lists_the_choices():
    with pytest.raises(ConfigError, match="expected color to be one of red, blue, got 'green'"):
        check_choice("color", "green", ("red", "blue"))


@dataclasses.dataclass(frozen=True)
class _Inner:
    size: int = 2


@dataclasses.dataclass(frozen=True)
class _Outer:
    inner: _Inner = _Inner()
    steps: tuple[int, ...] = ()


def test_values_from_yaml_become_what_the_fields_ask():
    assert build("thing", "outer", {"outer": _Outer}, {"inner": {"size": 4}, "steps": [1, 2]}) == _Outer(
        _Inner(4), (1, 2)
    )


@dataclasses.dataclass(frozen=True)
class _Optional:
    inner: _Inner | None = None
    size: int | None = 3


def test_a_part_that_may_be_missing_is_a_mapping_or_nothing():
    assert make_dataclass("thing", _Optional, {"inner": {"size": 4}}) == _Optional(_Inner(4))
    assert make_dataclass("thing", _Optional, {"inner": _Inner(5)}) == _Optional(_Inner(5))
    assert make_dataclass("thing", _Optional, {"inner": None, "size": None}) == _Optional(None, None)
    with pytest.raises(ConfigError, match=r"thing, parameter inner: expected a mapping of its fields, got 4"):
        make_dataclass("thing", _Optional, {"inner": 4})
    with pytest.raises(ConfigError, match=r"thing, parameter inner: expected a mapping of its fields, got None"):
        make_dataclass("thing", _Outer, {"inner": None})


def test_the_dataclass_in_a_type_is_found():
    assert nested_dataclass(_Inner) is nested_dataclass(_Inner | None) is _Inner
    assert nested_dataclass(int | None) is nested_dataclass(tuple[int, ...]) is None


def test_an_unknown_parameter_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown parameter of thing 'stepz'.*did you mean 'steps'"):
        make_dataclass("thing", _Outer, {"stepz": [1]})


def test_an_unknown_parameter_of_a_nested_part_is_an_error():
    """An option that is silently ignored is worse than none."""
    with pytest.raises(ConfigError, match="sise"):
        make_dataclass("thing", _Outer, {"inner": {"sise": 4}})


def test_a_parameter_of_the_wrong_type_names_itself_and_its_value():
    with pytest.raises(ConfigError, match=r"thing, parameter steps.*got 'many'"):
        make_dataclass("thing", _Outer, {"steps": "many"})
