"""Several trainings on one device: the benchmark runs, and its stack of networks trains what the trainer trains."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nab.models import build_model
from nab.report import benchmarks
from nab.seeding import derive, stream
from nab.training import Recipe, Runtime
from nab.training.batches import Batches
from nab.training.hook import PlainHook
from nab.training.step import Step

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
    """Two updates of two networks in float32, by the trainer's own step on the same samples."""
    dataset, device = sharing.images_of("noise", 16, 0), torch.device("cpu")
    recipe = Recipe(batch_size=8, lr=1e-3, precision="float32")
    stack = sharing.Stack(2, dataset, recipe, 4, 0, device)
    stack.epoch()
    for number in range(2):
        seed = derive(0, str(number))
        network = build_model("resnet18", num_classes=10, width=4, seed=seed).train()
        batches = Batches(dataset.images, recipe, device, stream(seed, "batches", device))
        runtime = Runtime.choose(device, "float32", 4)
        step = Step(network, recipe, runtime, batches, dataset.labels, PlainHook())
        for index in list(batches.epoch()):
            step(index, recipe.lr)
        for name, own in network.state_dict().items():
            together = (stack.parameters | stack.buffers)[name][number]
            torch.testing.assert_close(
                together, own, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name} {text}"
            )
