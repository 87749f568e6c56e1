"""The same on a GPU, where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nab.attacks import ATTACKS
from nab.data import IMAGENET, Dataset
from nab.defenses.stamping import StampedTraining
from nab.detection.lga import GradientAscent
from nab.experiments import StageCache, load_profile, run
from nab.models import ResNet9
from nab.seeding import stream
from nab.selfsupervised import BarlowTwins, SimCLR, train_encoder
from nab.stamp import Stamp
from nab.training import Batches, CrossEntropy, Predictor, Recipe, Step, Trained, Trainer, fit
from nab.training.update import Update

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.plants and not attack.is_trained])
def test_trigger_agrees_with_the_cpu_to_one_gray_level(name: str, digits: tuple[Dataset, Dataset]) -> None:
    images = digits[1].images[:50]
    attack = ATTACKS[name]()
    on_gpu = attack.trigger(images.cuda(), 0).cpu()
    assert (on_gpu.int() - attack.trigger(images, 0).int()).abs().max() <= 1


def test_training_learns(digits: tuple[Dataset, Dataset]) -> None:
    recipe = Recipe(epochs=15, schedule="one-cycle", flip=False, crop_padding=2)
    trained = trainer(recipe).train(digits[0], "x")
    predicted = trained.predictor.predict(digits[1].images)
    assert (predicted == digits[1].labels).float().mean() > 0.9


def test_smoke_run_of_nab(tmp_path: Path) -> None:
    result = run(load_profile("smoke").config(defense="nab"), results=tmp_path, device="cuda")
    assert result.device["type"] == "cuda"
    success = result.metrics["attack_success_rate"]
    assert result.peak_memory_mb["device"] > 0
    assert success is not None
    assert success <= 20


@pytest.mark.parametrize("method", [SimCLR(epochs=2, batch_size=64), BarlowTwins(epochs=2, batch_size=64, lr=0.01)])
def test_encoders_train_on_a_gpu(method: SimCLR | BarlowTwins, few_digits: Dataset) -> None:
    encoder = train_encoder(few_digits, trainer(GRAPHS), method)
    features = encoder.features(few_digits.images)
    assert features.device.type == "cuda"
    assert features.isfinite().all()


def test_a_training_goes_on_with_a_network_from_the_cpu(few_digits: Dataset) -> None:
    start = Trainer(GRAPHS, ResNet9(width=16)).fresh(few_digits, "x")
    more = trainer(GRAPHS).train(few_digits, "x", start=start, beside={"other": few_digits})
    assert more.predictor.runtime.device.type == "cuda"
    assert next(start.network.parameters()).device.type == "cpu"


# CUDA graphs.


GRAPHS = Recipe(epochs=3, batch_size=32, schedule="one-cycle", crop_padding=2, precision="float32")
"""On the 140 few digits: four whole batches and a smaller one per epoch."""


def plain_step(count: int) -> Step:
    return CrossEntropy()


def stamp_step(count: int) -> Step:
    return StampedTraining(Stamp(size=4, value=2.5), torch.arange(count) % 3 == 0, IMAGENET, torch.device("cuda"))


def ascent_step(count: int) -> Step:
    return GradientAscent(2.0, count, torch.device("cuda"))


def trainer(recipe: Recipe, **options) -> Trainer:
    return Trainer(recipe, ResNet9(width=16), device=torch.device("cuda"), **options)


def train(dataset: Dataset, recipe: Recipe, step: Step | None = None, **options) -> Trained:
    """By the loop itself, so that nothing is found in a cache."""
    source = Batches(dataset, recipe, torch.device("cuda"), stream(0, "test", "cuda"))
    return fit(trainer(recipe).fresh(dataset, "x"), source, recipe, step, **options)


def both_ways(dataset: Dataset, recipe: Recipe, make_step: Callable[[int], Step], monkeypatch) -> list:
    """Trained networks and their steps, with recorded updates and with launched ones."""
    trained = []
    for uses_graphs in ("1", "0"):
        monkeypatch.setenv("NAB_CUDA_GRAPHS", uses_graphs)
        step = make_step(len(dataset))
        trained.append((train(dataset, recipe, step), step))
    return trained


def is_recorded(monkeypatch) -> list[bool]:
    """Notes of every update whether it was replayed."""
    seen: list[bool] = []
    run_update = Update._run

    def spy(self: Update, index: torch.Tensor) -> None:
        seen.append(self._graph is not None)
        run_update(self, index)

    monkeypatch.setattr(Update, "_run", spy)
    return seen


@pytest.mark.parametrize("make_step", [plain_step, stamp_step, ascent_step])
def test_recorded_updates_are_the_launched_ones(make_step, few_digits, monkeypatch, caplog) -> None:
    assert len(few_digits) % GRAPHS.batch_size > 1
    seen = is_recorded(monkeypatch)
    (graphs, recorder), (launched, other) = both_ways(few_digits, GRAPHS, make_step, monkeypatch)
    assert "no CUDA graph" not in caplog.text
    assert any(seen)
    for one, two in zip(graphs.curve, launched.curve, strict=True):
        assert one["lr"] == two["lr"]
        assert one["loss"] == pytest.approx(two["loss"], rel=0.02)
    for one, two in zip(
        graphs.predictor.network.state_dict().values(), launched.predictor.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.02)
    if isinstance(recorder, GradientAscent):
        assert recorder.history().isfinite().all(), "every sample's loss of every epoch, those of the last batch too"
        torch.testing.assert_close(recorder.history(), other.history(), rtol=0.05, atol=0.05)


class Dynamic(CrossEntropy):
    """Says nothing of itself, so that nothing is recorded."""


def test_steps_that_are_not_static_are_launched(few_digits, monkeypatch) -> None:
    seen = is_recorded(monkeypatch)
    train(few_digits, GRAPHS, Dynamic())
    train(few_digits, GRAPHS, CrossEntropy(), beside=[Batches(few_digits, GRAPHS, CUDA, stream(1, "x", "cuda"))])
    assert not any(seen)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_updates_by_muon_are_the_launched_ones(precision, few_digits, monkeypatch, caplog) -> None:
    recipe = dataclasses.replace(GRAPHS, optimizer="muon", precision=precision)
    (graphs, _), (launched, _) = both_ways(few_digits, recipe, plain_step, monkeypatch)
    assert "no CUDA graph" not in caplog.text
    for one, two in zip(graphs.curve, launched.curve, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)


def test_recorded_updates_augment_every_batch_anew(few_digits, monkeypatch) -> None:
    """The generator goes on within a replayed graph: two epochs over one image differ in their losses."""
    images = few_digits.images[:1].repeat(256, 1, 1, 1)
    dataset = few_digits.replace(images=images, labels=torch.zeros(256, dtype=torch.int64))
    recipe = dataclasses.replace(GRAPHS, lr=1e-12, momentum=0.0, weight_decay=0.0, schedule="constant", epochs=4)
    losses = [trained.curve for trained, _ in both_ways(dataset, recipe, plain_step, monkeypatch)]
    for curve in losses:
        assert len({row["loss"] for row in curve}) > 1
    assert [row["loss"] for row in losses[0]] == pytest.approx([row["loss"] for row in losses[1]], rel=1e-4)


def test_recorded_updates_follow_the_learning_rate(few_digits, monkeypatch) -> None:
    """With a rate that falls to a thousandth the network stays where it is; a rate that was recorded would not."""
    recipe = dataclasses.replace(GRAPHS, schedule="steps", milestones=(2,), step_factor=1e-9, epochs=4, momentum=0.0)
    seen: list[torch.Tensor] = []

    def observe(predictor: Predictor) -> dict[str, float]:
        seen.append(torch.cat([p.detach().flatten().clone() for p in predictor.network.parameters()]))
        return {}

    monkeypatch.setenv("NAB_CUDA_GRAPHS", "1")
    train(few_digits, recipe, observe=observe)
    assert (seen[1] - seen[0]).abs().max() > 1e-3
    assert (seen[3] - seen[2]).abs().max() < 1e-6


@pytest.mark.parametrize("count", [2, 31, 32, 33, 96, 97, 130])
def test_graphs_train_on_sets_of_any_size(few_digits, monkeypatch, count) -> None:
    part = few_digits.subset(torch.arange(count))
    (graphs, _), (launched, _) = both_ways(part, GRAPHS, plain_step, monkeypatch)
    assert graphs.curve[-1]["loss"] == pytest.approx(launched.curve[-1]["loss"], rel=0.05)


def test_a_network_can_be_kept_and_found_on_a_gpu(few_digits, tmp_path) -> None:
    cache = StageCache(tmp_path)
    trainers = [trainer(GRAPHS, keeper=cache) for _ in range(2)]
    made, found = (each.train(few_digits, "x") for each in trainers)
    for each, is_found in zip(trainers, (False, True), strict=True):
        assert [cost.is_found for cost in each.ledger.costs.values()] == [is_found]
    assert torch.equal(made.predictor.logits(few_digits.images), found.predictor.logits(few_digits.images))
