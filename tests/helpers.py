"""What several test files build their cases from."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nab.data import Dataset, GroundTruth
from nab.detection.ensemble import Member
from nab.digest import digest
from nab.experiments import RunConfig, RunResult
from nab.models import ResNet9
from nab.seeding import stream
from nab.selfsupervised import SimCLR
from nab.training import Batches, Keeper, Output, Predictor, Recipe, Runtime, Trained

NAB = str(Path(sys.executable).with_name("nab"))
"""The command."""

TINY = Recipe(epochs=2, batch_size=32, lr=0.05, crop_padding=1, precision="float32")
"""A recipe that takes a second on the tiny datasets below."""

BRIEF = SimCLR(epochs=1, batch_size=128)
"""A self-supervised training of one step, for what is about features of any kind."""

MEMBERS = (Member("lga", {"epochs": 2}), Member("spectral-signatures"), Member("random"))
"""An ensemble that takes a second."""

EASY = Recipe(epochs=10, batch_size=16, lr=0.05, precision="float32").without_augmentation()
"""Enough to learn `quadrants`."""


@dataclasses.dataclass(frozen=True)
class Twin:
    """Has the fields of `Sibling`."""

    rate: float = 0.5
    size: int = 2


@dataclasses.dataclass(frozen=True)
class Sibling:
    """Has the fields of `Twin`."""

    rate: float = 0.5
    size: int = 2


def random_dataset(count: int = 64, size: int = 8, channels: int = 3, classes: int = 4, seed: int = 0) -> Dataset:
    """Noise images; the labels go round, so every class has its share."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Dataset(images, torch.arange(count) % classes, tuple("abcdefghij"[:classes]), "noise")


def quadrants(count: int = 64) -> Dataset:
    """Four classes that are easy to tell apart: noise, and one bright quarter of the image."""
    dataset = random_dataset(count)
    images = dataset.images // 4
    for label, (rows, columns) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        images[label::4, :, rows : rows + 4, columns : columns + 4] += 180
    return dataset.replace(images=images)


class FixedLogits(torch.nn.Module):
    """A network whose answer is known by hand: logits are a function of the images' upper left pixel."""

    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer(images)


def truth_of(labels: list[int], poisoned: list[int]) -> GroundTruth:
    """The truth about a few hand-written samples; ``poisoned`` are positions."""
    is_poisoned = torch.zeros(len(labels), dtype=torch.bool)
    is_poisoned[poisoned] = True
    return GroundTruth(torch.tensor(labels), is_poisoned)


def marks(truth: GroundTruth) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The poisoned samples, the covers, and the clean row of every sample, all of which `nab.attacks.poison` tells."""
    assert truth.is_cover is not None
    assert truth.origin is not None
    return truth.is_poisoned, truth.is_cover, truth.origin


def small(cls: type[Any]) -> Any:
    """A method with its defaults, except that it takes little time, and that what judges classes judges them harshly:
    on few samples the sources' thresholds are never reached, and their budgets are all cut to the same."""
    few = {"epochs": 2, "separation_epochs": 2, "steps": 3, "overlays": 4, "components": 8, "members": MEMBERS}
    few |= {"isolation_epochs": 2, "fine_tuning_epochs": 2, "isolation_rate": 0.05}
    harsh = {"threshold": 0.1, "width": 1.0, "floor": 1.0, "rate": 0.005}
    known = {field.name for field in dataclasses.fields(cls)}
    if "members" in known:
        harsh = {}
    return cls(**{name: value for name, value in (few | harsh).items() if name in known})


def alternatives(value: Any) -> list[Any]:
    """Other values for a hyper-parameter, by its type; none for names, which are validated instead."""
    others: list[Any] = []
    if isinstance(value, bool):
        others = [not value]
    elif isinstance(value, int):
        others = [value + 1, value * 2, value // 2]
    elif isinstance(value, float):
        others = [value * 0.5, value * 5, value + 0.25]
    elif isinstance(value, tuple):
        if not all(isinstance(part, int | float) for part in value):
            return [value[:-1]]
        others = [(1,), (*value, 1), tuple(type(part)(part / 2) for part in value)]
    return [other for other in others if other != value]


def result_of(
    config: RunConfig, profile: str = "smoke", *, studies: Sequence[str] = (), **metrics: float | None
) -> RunResult:
    """A finished run that was never run."""
    return RunResult(
        hash=config.hash,
        profile=profile,
        studies=list(studies),
        settings=config.settings,
        metrics={"clean_accuracy": 90.0, "attack_success_rate": 10.0, "robust_accuracy": 80.0, **metrics},
        curves={"training": [{"epoch": 1, "loss": 0.5, "lr": 0.1}]},
        data={"name": config.dataset.name, "train_images": 10, "provenance": "no published fingerprint"},
        cost={"training": 1.5, "evaluation": 0.5},
        wall_seconds=2.0,
        images_per_second={"training": 10.0},
        peak_memory_mb={"host": 100.0},
        device={"type": "cpu", "name": "a processor", "threads": 1, "precision": "float32"},
        versions={"torch": "2"},
        commit=None,
        finished="2026-01-01T00:00:00+00:00",
    )


def assert_one_line_error(answer: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, nothing on standard output, one line on standard error that has all ``parts``."""
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def counting_keeper() -> tuple[Keeper, list[str]]:
    """A keeper in memory, and the names of the stages that had to be made."""
    kept: dict[str, Output] = {}
    made: list[str] = []

    def keeper(stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        key = digest({"stage": stage, **inputs})
        if key in kept:
            return dataclasses.replace(kept[key], is_found=True)
        made.append(stage)
        kept[key] = make()
        return kept[key]

    return keeper, made


def fresh(dataset: Dataset, recipe: Recipe = TINY, width: int = 4, seed: int = 0) -> Predictor:
    """An untrained ResNet-9 on the CPU."""
    shape = (dataset.images.shape[1], dataset.images.shape[2], dataset.images.shape[3])
    network = ResNet9(width=width).build(dataset.num_classes, shape, seed)
    runtime = Runtime.choose(torch.device("cpu"), recipe.precision, network)
    return Predictor(runtime.place(network), dataset.normalization, runtime, None, dataset.classes, shape)


def plain_network(num_classes: int, channels: int = 3, width: int = 16) -> torch.nn.Sequential:
    """A network of somebody who does not know this library."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, width, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(width),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(2 * width),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2 * width, num_classes),
    )


def source_of(dataset: Dataset, recipe: Recipe = TINY, seed: int = 0) -> Batches:
    """Batches on the CPU."""
    return Batches(dataset, recipe, torch.device("cpu"), stream(seed, "test"))


def weights(trained: Trained) -> torch.Tensor:
    """All parameters of a trained network, one after the other."""
    return torch.cat([p.detach().flatten() for p in trained.predictor.network.parameters()])


def wait_until(is_so: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def alive(group: int, *, column: int = 2) -> int:
    """How many processes of a group still run, or with column 3 of a session; one that nobody buried does not."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            columns = stat.read_text().rpartition(")")[2].split()  # state, parent, group, session
            count += int(columns[column]) == group and columns[0] not in "ZX"
    return count
