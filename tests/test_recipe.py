"""Recipes: learning rates by hand, what is refused, and that every field counts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers import TINY, weights

from nab.errors import ConfigError
from nab.training import RECIPES, Recipe
from nab.training.recipe import SCHEDULES

# Learning rates, worked by hand from the specification.


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.1), (50, 0.053737), (90, 0.004952), (99, 0.000804)])
def test_the_papers_cosine(epoch, expected):
    for step in (0, 781):
        assert Recipe().learning_rate(epoch * 782 + step, 782) == pytest.approx(expected, abs=5e-7)


def test_one_cycle_rises_to_the_top_at_the_end_of_warmup_and_falls_to_almost_nothing():
    """Ten epochs of ten steps, peak after a fifth: 101 intervals, the top at step 20.2."""
    recipe = Recipe(epochs=10, lr=0.4, schedule="one-cycle", warmup=0.2)
    rates = [recipe.learning_rate(step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 * (1 / 101) / 0.2)
    assert rates[9] == pytest.approx(0.4 * (10 / 101) / 0.2)
    assert rates.index(max(rates)) == 19
    assert max(rates) == pytest.approx(0.4 * (20 / 101) / 0.2)
    assert rates[99] == pytest.approx(0.4 * (1 / 101) / 0.8)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_one_cycle_without_rise_or_fall(warmup):
    recipe = Recipe(epochs=2, lr=1.0, schedule="one-cycle", warmup=warmup)
    rates = [recipe.learning_rate(step, 2) for step in range(4)]
    rising = pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert (rates if warmup else rates[::-1]) == rising


def test_steps_divide_at_every_milestone():
    recipe = Recipe(epochs=100, lr=0.01, schedule="steps", milestones=(20, 60), step_factor=0.1)
    for epoch, expected in ((0, 0.01), (19, 0.01), (20, 0.001), (59, 0.001), (60, 0.0001), (99, 0.0001)):
        assert recipe.learning_rate(epoch * 7, 7) == pytest.approx(expected)


def test_constant_is_constant():
    assert {Recipe(lr=0.3, schedule="constant").learning_rate(step, 5) for step in range(50)} == {0.3}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*at least 1, got 0"),
        ({"batch_size": 1}, "batch_size of at least 2"),
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"lr": 0}, "lr in .*got 0"),
        ({"lr": math.inf}, "lr.*got inf"),
        ({"momentum": 1}, r"momentum in \[0, 1\), got 1"),
        ({"optimizer": "adam"}, "sgd, muon, got 'adam'"),
        ({"filter_lr": 0}, "filter_lr in .*got 0"),
        ({"nesterov": True, "momentum": 0}, "(?=.*nesterov)(?=.*momentum)"),
        ({"weight_decay": -1}, "weight_decay.*got -1"),
        ({"label_smoothing": 1}, r"label_smoothing in \[0, 1\), got 1"),
        ({"schedule": "linear"}, "cosine, constant, steps, one-cycle, got 'linear'"),
        ({"cosine_extra_epochs": -100}, "cosine_extra_epochs.*got -100"),
        ({"step_factor": -1.0}, "step_factor.*got -1"),
        ({"warmup": 1.5}, r"warmup in \[0, 1\], got 1.5"),
        ({"crop_padding": -1}, "crop_padding.*got -1"),
        ({"crop_padding": 1.5}, "crop_padding.*got 1.5"),
        ({"cutout": -1}, "cutout.*got -1"),
        ({"cutout": 2.5}, "cutout.*got 2.5"),
        ({"cutout": 1}, "cutout.*at least 2, got 1"),
        ({"precision": "float16"}, "auto, bfloat16, float32, got 'float16'"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_recipe_that_cannot_be_trained_is_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Recipe(**wrong)


CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "epochs": ({}, 3),
    "batch_size": ({}, 16),
    "lr": ({}, 0.02),
    "momentum": ({}, 0.5),
    "nesterov": ({}, True),
    "weight_decay": ({}, 0.1),
    "label_smoothing": ({}, 0.2),
    "schedule": ({}, "constant"),
    "cosine_extra_epochs": ({}, 1),
    "milestones": ({"schedule": "steps"}, (1,)),
    "step_factor": ({"schedule": "steps", "milestones": (1,)}, 0.5),
    "warmup": ({"schedule": "one-cycle"}, 0.7),
    "crop_padding": ({}, 2),
    "flip": ({}, False),
    "cutout": ({}, 0),
    "precision": ({}, "bfloat16"),
    "optimizer": ({}, "muon"),
    "filter_lr": ({"optimizer": "muon"}, 0.05),
}
"""For every field of `Recipe`: settings under which it matters, and another value."""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_changes_what_is_learned(name, tiny_trainer, noise):
    settings, value = CHANGES[name]
    base = dataclasses.replace(TINY, **settings)
    one, other = (tiny_trainer(recipe=dataclasses.replace(base, **change)) for change in ({}, {name: value}))
    assert not torch.equal(weights(one.train(noise, "x")), weights(other.train(noise, "x")))


@pytest.mark.parametrize(
    ("unused", "value", "users"),
    [
        ("cosine_extra_epochs", 9, {"schedule": "cosine"}),
        ("milestones", (1,), {"schedule": "steps"}),
        ("step_factor", 0.5, {"schedule": "steps"}),
        ("warmup", 0.7, {"schedule": "one-cycle"}),
        ("filter_lr", 0.5, {"optimizer": "muon"}),
    ],
)
def test_a_field_that_nothing_looks_at_does_not_count(unused, value, users):
    for schedule in SCHEDULES:
        base = Recipe(schedule=schedule)
        is_used = users == {"schedule": schedule}
        assert (dataclasses.replace(base, **{unused: value}).effective() == base.effective()) is not is_used
    base = Recipe(**users)
    assert dataclasses.replace(base, **{unused: value}).effective() != base.effective()


def test_the_papers_recipe_is_the_default_and_both_recipes_have_a_name():
    assert set(RECIPES) == {"paper", "quick"}
    assert RECIPES["paper"] == Recipe()
