"""Errors are the user's to mend: they name the value, what was allowed, and the nearest valid name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nab.attacks import make_attack
from nab.checks import check_choice, check_positive, check_range
from nab.detection import make_detector
from nab.errors import ConfigError, DataError, NabError, ResultError
from nab.pseudolabels import make_labeler
from nab.registry import build, lookup, make_dataclass


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


@pytest.mark.parametrize("make", [make_attack, make_detector, make_labeler])
def test_every_maker_names_what_it_knows(make):
    with pytest.raises(ConfigError, match="expected one of"):
        make("no such method")


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


def test_check_choice_lists_the_choices():
    with pytest.raises(ConfigError, match="expected colour to be one of red, blue, got 'green'"):
        check_choice("colour", "green", ("red", "blue"))


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
