"""Evaluations are kept under all that the answers depend on: what one defense answered is never told of another."""

from __future__ import annotations

import dataclasses
import logging
import sys
import types
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from nab.data import Dataset
from nab.defenses import DEFENSES, Defended, Defense, Deployed, Plain, Response
from nab.experiments import RunResult, load_profile, run
from nab.needs import Given
from nab.training import Predictor, Trainer

QUICK = {"dataset.train_size": 100, "model.width": 4, "recipe.epochs": 1, "monitor_size": 20}
SMOKE = load_profile("smoke")


@dataclasses.dataclass(frozen=True, eq=False)
class RefusesAll(Plain):
    """The attacked network, all of whose answers are refusals."""

    refuses: ClassVar[bool] = True

    def respond(self, pixels: torch.Tensor, *, is_full: bool = True) -> Response:
        logits = self.predictor.forward(self.predictor.normalize(pixels))
        return Response(logits, is_refused=torch.ones(len(pixels), dtype=torch.bool))


@dataclasses.dataclass(frozen=True)
class Wrapped(Defense):
    """Deploys whatever ``wrap`` makes of the attacked network."""

    summary: ClassVar[str] = "for tests"
    source: ClassVar[str] = "tests"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model"})
    wrap: ClassVar[Callable[[Predictor], Deployed]]

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.attacked is not None
        return Defended(type(self).wrap(given.attacked.predictor), {"training": given.attacked})


@pytest.fixture
def run_wrapped(monkeypatch, tmp_path) -> Callable[..., RunResult]:
    """Runs the defense that deploys what the given function makes of the attacked network; always anew."""
    monkeypatch.setitem(DEFENSES, "wrapped", Wrapped)

    def call(wrap: Callable[[Predictor], Deployed]) -> RunResult:
        monkeypatch.setattr(Wrapped, "wrap", staticmethod(wrap), raising=False)
        return run(SMOKE.config(**QUICK, defense="wrapped"), results=tmp_path, device="cpu", force=True)

    return call


def test_a_defense_that_refuses_every_image_has_no_accuracy_and_no_attack_whatever_is_cached(run_wrapped, tmp_path):
    """It shares the network with a run whose evaluation is cached already."""
    none = run(SMOKE.config(**QUICK, defense="none"), results=tmp_path, device="cpu")
    assert (none.metrics["clean_accuracy"] or 0) > 0
    refused = run_wrapped(RefusesAll)
    assert refused.found_stages == ["attack", "training"], "but not its evaluation"
    for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy", "robust_accuracy_all"):
        assert refused.metrics[name] == 0
        assert refused.metrics[f"{name}_after_refusal"] == 0
    assert (refused.metrics["clean_refusal_rate"], refused.metrics["triggered_refusal_rate"]) == (100, 100)
    assert {example["clean"] for example in refused.examples} == {-1}
    plain = run_wrapped(Plain)
    assert plain.found_stages == ["attack", "training", "evaluation"], "which is that of the run without a defense"
    assert plain.metrics == none.metrics


ANSWERS = """
import dataclasses
import torch
from nab.defenses import Deployed, Response
{imports}
@dataclasses.dataclass(frozen=True, eq=False)
class {name}({base}):
    summary = "always the same answer"
    def respond(self, pixels, *, is_full=True):
        return Response(torch.eye(10)[torch.full((len(pixels),), {label})])
"""


@pytest.fixture
def written(tmp_path, monkeypatch) -> Callable[..., type[Deployed]]:
    """A class that always answers ``label``, in a module that is written and imported anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, label: int, base: str = "Deployed", imports: str = "") -> type[Deployed]:
        path = tmp_path / f"module_of_{name.lower()}.py"
        path.write_text(ANSWERS.format(name=name, label=label, base=base, imports=imports))
        module = types.ModuleType(path.stem)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, path.stem, module)
        exec(compile(path.read_text(), path, "exec"), module.__dict__)
        return getattr(module, name)

    return write


def test_a_class_of_ones_own_whose_source_was_changed_is_another_one(run_wrapped, written):
    first = run_wrapped(written("AlwaysSame", 3))
    assert first.metrics["attack_success_rate"] == 0
    again = run_wrapped(written("AlwaysSame", 3))
    assert "evaluation" in again.found_stages
    changed = run_wrapped(written("AlwaysSame", 0))
    assert "evaluation" not in changed.found_stages
    assert changed.metrics["attack_success_rate"] == 100


def test_a_base_class_of_ones_own_counts_too(few_digits, tiny_trainer, written):
    predictor = tiny_trainer().fresh(few_digits, "x")
    keys = []
    for label in (3, 3, 0):
        written("AlwaysBase", label)
        derived = written("AlwaysDerived", 1, "AlwaysBase", "from module_of_alwaysbase import AlwaysBase")
        keys.append(derived(predictor).key)
    assert keys[0] == keys[1] != keys[2]


def local(predictor: Predictor) -> Deployed:
    """Of a class that is defined in a function, as in a notebook: no file says what it does."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class DefinedInAFunction(Plain):
        pass

    return DefinedInAFunction(predictor)


def hiding(predictor: Predictor) -> Deployed:
    """With an attribute that is no field, so that two may differ in it."""
    deployed = RefusesAll(predictor)
    object.__setattr__(deployed, "hidden", 1)
    return deployed


@pytest.mark.parametrize("wrap", [local, hiding])
def test_what_cannot_be_told_apart_is_judged_every_time_and_never_an_error(run_wrapped, caplog, wrap):
    with caplog.at_level(logging.WARNING):
        first, second = run_wrapped(wrap), run_wrapped(wrap)
    assert "the evaluation is not kept" in caplog.text
    assert "training" in second.found_stages
    assert "evaluation" not in second.found_stages
    assert second.metrics == first.metrics
    assert second.cost["evaluation"] > 0
