"""The same on a GPU: run where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nab.attacks import ATTACKS, make_attack
from nab.data import Dataset
from nab.experiments import load_profile, run
from nab.training import Recipe, train

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
