"""Shared fixtures, and the two rules by which a test may be skipped: no CIFAR-10, no GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import BRIEF, TINY, FixedLogits, random_dataset
from planned import Plan, Time

from nab.attacks import BadNets, Poisoned, poison
from nab.data import Dataset, load, stratified_index
from nab.defenses.supply import Supply
from nab.experiments import Settings
from nab.models import ResNet9
from nab.training import Predictor, Recipe, Runtime, Trained, Trainer

CIFAR10_ROOT = os.environ.get("NAB_DATA")
"""Read before the tests' own environment hides it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_data = pytest.mark.skip(reason="needs CIFAR-10: set NAB_DATA to the folder that holds cifar10/")
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("cifar10") and not CIFAR10_ROOT:
            item.add_marker(no_data)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache folder, beside ``tmp_path``."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_folders(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache or data."""
    monkeypatch.setenv("NAB_CACHE", str(cache_folder))
    for name in ("NAB_DATA", "NAB_STAGES", "NAB_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spare_environment(cache_folder: Path) -> dict[str, str]:
    """For subprocesses: the tests' own cache, and no interference from the caller's terminal."""
    hidden = ("NAB_DATA", "NAB_STAGES", "NAB_CACHE_LIMIT", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"NAB_CACHE": str(cache_folder)}


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of the `smoke` profile are made once, for the pipeline's tests and the book's."""
    return tmp_path_factory.mktemp("smoke-results")


@pytest.fixture
def noise() -> Dataset:
    """64 noise images of 8 x 8, four classes."""
    return random_dataset()


@pytest.fixture(scope="session")
def digits() -> tuple[Dataset, Dataset]:
    """Train and test part of the embedded digits."""
    return load("digits")


@pytest.fixture(scope="session")
def few_digits(digits: tuple[Dataset, Dataset]) -> Dataset:
    """About 140 digits, class-balanced."""
    train = digits[0]
    return train.subset(stratified_index(train.labels, 0.1, 0, "tests"))


@pytest.fixture(scope="session")
def poisoned_digits(few_digits: Dataset) -> Poisoned:
    """A fifth of the few digits with the BadNets trigger and the label 0."""
    return poison(few_digits, BadNets(), rate=0.2, target=0, seed=0)


@pytest.fixture
def tiny_trainer() -> Callable[..., Trainer]:
    """Makes trainers whose trainings take a second; arguments are fields of `Trainer`."""

    def make(**changes: Any) -> Trainer:
        given: dict[str, Any] = {"recipe": TINY, "architecture": ResNet9(width=4), "seed": 3}
        return Trainer(**(given | changes))

    return make


@pytest.fixture
def tiny_supply(
    digits: tuple[Dataset, Dataset], poisoned_digits: Poisoned, tiny_trainer: Callable[..., Trainer]
) -> Callable[..., Supply]:
    """Makes supplies for the poisoned digits, with verified data and the truth; arguments are fields of `Supply`.

    ``tiny_supply().give(method, suspicion)`` is what a method is handed.
    """
    test = digits[1]
    verified = test.subset(stratified_index(test.labels, 0.15, 0, "tests"))

    def make(**changes: Any) -> Supply:
        given: dict[str, Any] = {"dataset": poisoned_digits.dataset, "verified": verified, "encoder": BRIEF}
        given |= {"truth": poisoned_digits.truth, "trainer": changes.get("trainer") or tiny_trainer()}
        return Supply(**(given | changes))

    return make


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`Trainer.train` hands back a network given by the test; what it was called with is kept in ``calls``.

    Set ``answer`` (normalized images to logits) before anything is trained. A call has ``trainer``, ``dataset``,
    ``purpose``, ``recipe`` (the trainer's by default), and whatever else was passed; ``step`` and ``start`` are None if
    they were not.
    """
    spy = SimpleNamespace(calls=[], answer=lambda images: torch.zeros(len(images), 4))

    def fake(self: Trainer, dataset: Dataset, purpose: str, *, recipe: Recipe | None = None, **options: Any) -> Trained:
        call = {"step": None, "start": None} | options
        spy.calls.append(
            SimpleNamespace(trainer=self, dataset=dataset, purpose=purpose, recipe=recipe or self.recipe, **call)
        )
        runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
        _, channels, height, width = dataset.images.shape
        network = FixedLogits(spy.answer)
        predictor = Predictor(network, dataset.normalization, runtime, None, dataset.classes, (channels, height, width))
        return Trained(predictor, [], 1.0)

    monkeypatch.setattr(Trainer, "train", fake)
    return spy


@pytest.fixture
def nab(monkeypatch, capsys, tmp_path):
    """Calls the command in this process, in an empty folder; hands back exit code, standard output and error."""
    from nab import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


# A grid whose runs are planned, see `planned`.


@pytest.fixture
def time(monkeypatch) -> Time:
    passing = Time()
    monkeypatch.setattr("nab.experiments.grid.time", passing)
    monkeypatch.setattr("nab.experiments.grid.wait", passing.wait)
    return passing


@pytest.fixture
def plan(time) -> Callable[..., Plan]:
    def make(seconds: float | Callable[[int], float] = 10.0, **outcomes: list[Any]) -> Plan:
        by_seed = {int(name.removeprefix("run")): list(planned) for name, planned in outcomes.items()}
        return Plan(time, seconds if callable(seconds) else lambda seed: seconds, by_seed)

    return make


@pytest.fixture
def how(tmp_path) -> Settings:
    return Settings("smoke", str(tmp_path / "results"), str(tmp_path / "stages"), None, "cpu", torch.get_num_threads())
