"""Runs compared by their settings: choosing some of them, and telling them apart."""

from __future__ import annotations

from typing import Any

import pytest

from nab.errors import ConfigError
from nab.experiments import Method, RunConfig, select
from nab.experiments.comparison import differences

Runs = list[tuple[RunConfig, tuple[str, ...]]]


def method(name: str, **params: Any) -> Method:
    return Method(name=name, params=params)


NAB: dict[str, Any] = {"defense": method("nab"), "detector": method("lga"), "labeler": method("vd")}


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Eight runs without and with a defense in the study ``main``; two with other hyper-parameters in ``more``."""
    main = [
        RunConfig(seed=seed, attack=method(attack), **defense)
        for seed in (0, 1)
        for attack in ("badnets", "blend")
        for defense in ({}, NAB)
    ]
    more = [
        RunConfig(**NAB | {"detector": method("lga", epochs=2)}),
        RunConfig(**NAB | {"defense": method("nab", stamp={"size": 4})}, poison_rate=0.2),
    ]
    return [(config, ("main",)) for config in main] + [(config, ("more", "sizes")) for config in more]


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 10),
        ([("attack", "blend")], 4),
        ([("attack", "blend"), ("attack", "badnets")], 10),
        ([("attack", "blend"), ("defense", "nab")], 2),
        ([("attack", "blend"), ("defense", "nab"), ("seed", 1)], 1),
        ([("detector", "lga")], 6),
        ([("detector", None)], 4),
        ([("study", "main")], 8),
        ([("study", "sizes")], 2),
        ([("study", "main"), ("study", "more"), ("seed", 1)], 4),
        ([("detector.epochs", 2)], 1),
        ([("detector.epochs", 2.0)], 1),
        ([("defense.stamp.size", 4)], 1),
        ([("poison_rate", 0.2)], 1),
        ([("poison_rate", 1e-1)], 9),
        ([("seed", 1.0)], 4),
        ([("recipe.flip", True)], 10),
    ],
    ids=str,
)
def test_only_what_has_the_wanted_values_is_left(runs, only, count):
    chosen = select(runs, only)
    assert len(chosen) == count
    assert [run for run in runs if run in chosen] == chosen, "in their order"


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ([("sead", 1)], "unknown key 'sead': expected one of attack, .*did you mean 'seed'"),
        ([("detector.epoch", 1)], "unknown key 'detector.epoch': expected one of detector.batch_size, .*epochs'"),
        ([("studies", "main")], "unknown key 'studies': .*did you mean 'study'"),
        ([("seed", 7)], "none of the grid's 10 runs has seed 7"),
        ([("seed", True)], "none of the grid's 10 runs has seed True"),
        ([("recipe.flip", 1)], "none of the grid's 10 runs has recipe.flip 1"),
        ([("attack", "blend"), ("seed", 7), ("seed", 8)], "none of the grid's 10 runs has attack blend, seed 7 or 8"),
    ],
    ids=str,
)
def test_a_choice_that_names_nothing_is_refused(runs, only, told):
    with pytest.raises(ConfigError, match=told):
        select(runs, only)


def told_apart(*runs: dict[str, Any], shown: tuple[str, ...] = ()) -> list[str]:
    return differences([RunConfig(**run).settings for run in runs], shown)


def test_runs_of_one_method_differ_in_its_hyper_parameters():
    blends = [{"attack": method("blend", alpha=alpha)} for alpha in (0.2, 0.5)]
    assert told_apart(*blends) == ["attack.alpha=0.2", "attack.alpha=0.5"]


def test_other_methods_have_other_hyper_parameters_and_rates_anyway():
    runs: list[dict[str, Any]] = [{"attack": method("badnets")}, {"attack": method("adap-blend")}]
    assert RunConfig(**runs[0]).poison_rate != RunConfig(**runs[1]).poison_rate
    assert told_apart(*runs, shown=("attack",)) == ["", ""]
    runs.append({"attack": method("badnets"), "poison_rate": 0.02})
    assert told_apart(*runs, shown=("attack",)) == ["poison_rate=0.1", "", "poison_rate=0.02"]


def test_whatever_has_a_column_of_its_own_is_left_out():
    runs: list[dict[str, Any]] = [{"seed": 0}, {"seed": 1, "model": method("resnet9")}]
    assert told_apart(*runs) == ["model=resnet18 seed=0", "model=resnet9 seed=1"]
    assert told_apart(*runs, shown=("seed",)) == ["model=resnet18", "model=resnet9"]
    assert told_apart(*runs, shown=("seed", "model")) == ["", ""]


def test_a_field_that_a_run_does_not_use_is_no_difference():
    assert told_apart({}, NAB, shown=("defense", "detector", "labeler")) == ["", ""]


def test_nested_hyper_parameters_and_those_without_a_value():
    stamps = [NAB | {"defense": method("nab", stamp={"size": size})} for size in (2, 4)]
    assert told_apart(*stamps) == ["defense.stamp.size=2", "defense.stamp.size=4"]
    sizes = [{"dataset": method("digits", train_size=size)} for size in (None, 100)]
    assert told_apart(*sizes) == ["dataset.train_size=null", "dataset.train_size=100"]


def test_one_run_differs_from_nothing():
    assert told_apart(NAB) == [""]
    assert told_apart() == []
