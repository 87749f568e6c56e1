"""The same on a GPU: run where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nab.attacks import ATTACKS, make_attack
from nab.data import Dataset
from nab.defenses.nab import StampHook
from nab.detection.lga import GradientAscentHook
from nab.experiments import StageCache, load_profile, run
from nab.stamp import Stamp
from nab.training import Context, Hook, Recipe, train
from nab.training.hook import PlainHook

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ATTACKS)
def test_trigger_agrees_with_the_cpu_to_one_grey_level(name: str, digits: tuple[Dataset, Dataset]) -> None:
    images = digits[1].images[:50]
    attack = make_attack(name)
    on_gpu = attack.trigger(images.cuda(), 0).cpu()
    assert (on_gpu.int() - attack.trigger(images, 0).int()).abs().max() <= 1


def test_training_learns(digits: tuple[Dataset, Dataset]) -> None:
    recipe = Recipe(epochs=15, schedule="one-cycle", flip=False, crop_padding=2)
    trained = train(digits[0], recipe, model="resnet9", width=16, device="cuda")
    predicted = trained.predictor.predict(digits[1].images)
    assert (predicted == digits[1].labels).float().mean() > 0.9


def test_smoke_run_of_nab(tmp_path: Path) -> None:
    result = run(load_profile("smoke").config(defense="nab"), results=tmp_path, device="cuda")
    assert result.device["type"] == "cuda"
    assert result.peak_memory_mb["device"] > 0
    assert result.metrics["attack_success_rate"] <= 20


# CUDA graphs.


GRAPHS = Recipe(epochs=3, batch_size=32, schedule="one-cycle", crop_padding=2, precision="float32")
"""On the 140 few digits: four whole batches and a smaller one per epoch."""


def plain_hook(count: int) -> Hook:
    return PlainHook()


def stamp_hook(count: int) -> Hook:
    return StampHook(Stamp(size=4, value=2.5), torch.arange(count) % 3 == 0, torch.device("cuda"))


def ascent_hook(count: int) -> Hook:
    return GradientAscentHook(2.0, count, torch.device("cuda"))


def both_ways(dataset: Dataset, recipe: Recipe, make_hook: Callable[[int], Hook], monkeypatch, **options) -> list:
    """Trained networks and their hooks, with recorded updates and with launched ones."""
    trained = []
    for uses_graphs in ("1", "0"):
        monkeypatch.setenv("NAB_CUDA_GRAPHS", uses_graphs)
        hook = make_hook(len(dataset))
        given = {"model": "resnet9", "width": 16, "device": "cuda", "hook": hook} | options
        trained.append((train(dataset, recipe, **given), hook))
    return trained


@pytest.mark.parametrize("make_hook", [plain_hook, stamp_hook, ascent_hook])
def test_recorded_updates_are_the_launched_ones(make_hook, few_digits, monkeypatch, caplog) -> None:
    assert len(few_digits) % GRAPHS.batch_size > 1
    (graphs, recorder), (launched, other) = both_ways(few_digits, GRAPHS, make_hook, monkeypatch)
    assert "no CUDA graph" not in caplog.text
    for one, two in zip(graphs.curve, launched.curve, strict=True):
        assert one["lr"] == two["lr"]
        assert one["loss"] == pytest.approx(two["loss"], rel=0.02)
    for one, two in zip(
        graphs.predictor.model.state_dict().values(), launched.predictor.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.02)
    if isinstance(recorder, GradientAscentHook):
        assert recorder.history().isfinite().all(), "every sample's loss of every epoch, those of the last batch too"
        torch.testing.assert_close(recorder.history(), other.history(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_updates_by_muon_are_the_launched_ones(precision, few_digits, monkeypatch, caplog) -> None:
    recipe = dataclasses.replace(GRAPHS, optimizer="muon", precision=precision)
    (graphs, _), (launched, _) = both_ways(few_digits, recipe, plain_hook, monkeypatch)
    assert "no CUDA graph" not in caplog.text
    for one, two in zip(graphs.curve, launched.curve, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)


def test_recorded_updates_augment_every_batch_anew(few_digits, monkeypatch) -> None:
    """The generator goes on within a replayed graph: two epochs over one image differ in their losses."""
    images = few_digits.images[:1].repeat(256, 1, 1, 1)
    dataset = few_digits.replace(images=images, labels=torch.zeros(256, dtype=torch.int64))
    recipe = dataclasses.replace(GRAPHS, lr=1e-12, momentum=0.0, weight_decay=0.0, schedule="constant", epochs=4)
    losses = [trained.curve for trained, _ in both_ways(dataset, recipe, plain_hook, monkeypatch)]
    for curve in losses:
        assert len({row["loss"] for row in curve}) > 1
    assert [row["loss"] for row in losses[0]] == pytest.approx([row["loss"] for row in losses[1]], rel=1e-4)


def test_recorded_updates_follow_the_learning_rate(few_digits, monkeypatch) -> None:
    """With a rate that falls to a thousandth the network stays where it is; a rate that was recorded would not."""
    recipe = dataclasses.replace(GRAPHS, schedule="steps", milestones=(2,), step_factor=1e-9, epochs=4, momentum=0.0)
    seen: list[torch.Tensor] = []

    def monitor(predictor) -> dict[str, float]:
        seen.append(torch.cat([p.detach().flatten().clone() for p in predictor.model.parameters()]))
        return {}

    monkeypatch.setenv("NAB_CUDA_GRAPHS", "1")
    train(few_digits, recipe, model="resnet9", width=16, device="cuda", monitor=monitor)
    assert (seen[1] - seen[0]).abs().max() > 1e-3
    assert (seen[3] - seen[2]).abs().max() < 1e-6


@pytest.mark.parametrize("count", [2, 31, 32, 33, 96, 97, 130])
def test_graphs_train_on_sets_of_any_size(few_digits, monkeypatch, count) -> None:
    part = few_digits.subset(torch.arange(count))
    (graphs, _), (launched, _) = both_ways(part, GRAPHS, plain_hook, monkeypatch)
    assert graphs.curve[-1]["loss"] == pytest.approx(launched.curve[-1]["loss"], rel=0.05)


def test_a_network_can_be_kept_and_found_on_a_gpu(few_digits, tmp_path) -> None:
    cache = StageCache(tmp_path)
    contexts = [
        Context(recipe=GRAPHS, model="resnet9", width=16, device=torch.device("cuda"), keeper=cache) for _ in range(2)
    ]
    made, found = (context.train(few_digits, "x") for context in contexts)
    assert contexts[1].clock.found == ["network"]
    assert torch.equal(made.predictor.logits(few_digits.images), found.predictor.logits(few_digits.images))
