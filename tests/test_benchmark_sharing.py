"""Several trainings on one device: the benchmark runs, and its stack of networks trains what the trainer trains."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nab.models import ResNet18
from nab.report import benchmarks
from nab.training import CrossEntropy, Recipe, Trainer, fit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("sharing")


def test_sharing_measures_processes_and_a_stack(sharing: ModuleType, tmp_path: Path) -> None:
    tiny = ["--models", "2", "--width", "4", "--batch-size", "8", "--images", "16", "--repeats", "1", "--threads", "1"]
    sharing.main(["--results", str(tmp_path), "--device", "cpu", *tiny])
    (found,) = benchmarks.read_measurements("sharing", tmp_path)
    assert {name: len(rates) for name, rates in found.measured["images_per_second"].items()} == {
        "alone": 1,
        "processes": 1,
        "stack": 1,
    }
    assert benchmarks.sharing_table([found])["trainings"].tolist() == [2]


def test_a_stack_trains_each_network_as_if_it_were_alone(sharing: ModuleType) -> None:
    """Two updates of two networks in float32, by the one training loop on the same samples."""
    dataset = sharing.images_of("noise", 16, 0)
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3, precision="float32")
    trainer = Trainer(recipe, ResNet18(4), 0)
    stack = sharing.Stack(2, dataset, trainer)
    stack.epoch()
    for number, own in enumerate(sharing.several(trainer, 2)):
        batches = sharing.batches_of(dataset, own)
        trained = fit(own.fresh(dataset, "benchmark"), batches, recipe, CrossEntropy())
        assert len(batches) == 2
        for name, alone in trained.predictor.network.state_dict().items():
            together = (stack.parameters | stack.buffers)[name][number]
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-3, msg=f"{name}: {{}}".format)


def test_networks_of_a_stack_differ(sharing: ModuleType) -> None:
    stack = sharing.Stack(2, sharing.images_of("noise", 16, 0), Trainer(Recipe(batch_size=8), ResNet18(4), 0))
    first, second = stack.parameters["classifier.weight"]
    assert not torch.equal(first, second)
