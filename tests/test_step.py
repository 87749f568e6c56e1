"""Which updates are recorded as CUDA graphs. What they compute is compared in `test_gpu.py`."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY

from nab.defenses.nab import StampHook
from nab.detection.lga import GradientAscentHook
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training import Batches, Hook, Runtime
from nab.training.hook import PlainHook
from nab.training.step import Step
from nab.training.trainer import fresh_predictor

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "setting", "uses_graphs"),
    [("cuda", None, True), ("cuda", "1", True), ("cuda", "0", False), ("cpu", None, False), ("cpu", "1", False)],
)
def test_graphs_are_for_gpus_and_can_be_turned_off(monkeypatch, device, setting, uses_graphs):
    monkeypatch.delenv("NAB_CUDA_GRAPHS", raising=False)
    if setting is not None:
        monkeypatch.setenv("NAB_CUDA_GRAPHS", setting)
    assert Runtime.choose(torch.device(device), "float32", 64).uses_graphs is uses_graphs


@pytest.mark.parametrize(
    ("device", "width", "channels_last"), [("cuda", 4, True), ("cpu", 4, False), ("cpu", 15, False), ("cpu", 16, True)]
)
def test_the_layout_is_the_fastest_safe_one(device, width, channels_last):
    assert Runtime.choose(torch.device(device), "float32", width).channels_last is channels_last


def test_methods_of_the_library_can_be_recorded_and_an_unknown_hook_cannot():
    assert PlainHook.is_static
    assert StampHook.is_static
    assert GradientAscentHook.is_static
    assert not Hook.is_static


def test_only_hooks_that_say_what_they_depend_on_are_kept():
    mask = torch.tensor([True, False])
    assert Hook().inputs is None
    assert PlainHook().inputs == {}
    assert GradientAscentHook(0.5, 2, CPU).inputs is None, "it collects losses"
    assert StampHook(Stamp(), mask, CPU).inputs == {"stamp": Stamp(), "is_stamped": mask}


@pytest.mark.parametrize("hook", [PlainHook(), Hook()])
def test_on_a_cpu_every_update_is_launched_on_the_samples_themselves(noise, monkeypatch, hook):
    predictor = fresh_predictor(noise, TINY, "resnet9", 4, CPU)
    batches = Batches(noise.images, TINY, CPU, stream(0, "test"))
    step = Step(predictor.model, TINY, predictor.runtime, batches, noise.labels, hook)
    seen = []
    launch = step._update
    monkeypatch.setattr(step, "_update", lambda index: seen.append(index) or launch(index))
    before = [p.detach().clone() for p in predictor.model.parameters()]
    given = [torch.arange(32), torch.arange(40, 50)] * 4
    for index in given:
        step(index, 0.05)
    assert all(one is other for one, other in zip(seen, given, strict=True))
    assert step._optimizer.param_groups[0]["lr"] == 0.05
    assert 0 < float(step.total) < 8 * 10
    assert any(not torch.equal(p, q) for p, q in zip(before, predictor.model.parameters(), strict=True))


def test_the_learning_rate_of_an_update_is_the_one_it_is_given(noise):
    moved = []
    for lr in (0.0, 0.01, 0.1):
        predictor = fresh_predictor(noise, TINY, "resnet9", 4, CPU)
        batches = Batches(noise.images, TINY, CPU, stream(0, "test"))
        step = Step(predictor.model, TINY, predictor.runtime, batches, noise.labels, PlainHook())
        before = torch.cat([p.detach().flatten().clone() for p in predictor.model.parameters()])
        step(torch.arange(32), lr)
        after = torch.cat([p.detach().flatten() for p in predictor.model.parameters()])
        moved.append(float((after - before).norm()))
    assert moved[0] == 0
    assert moved[2] == pytest.approx(10 * moved[1], rel=1e-3)
