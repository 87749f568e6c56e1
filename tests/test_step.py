"""Steps: what they are shown, what they may change, what they say of themselves; and which updates are recorded as CUDA
graphs. What recorded updates compute is compared in `test_gpu.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import TINY, fresh, source_of, weights

from nab.data import IMAGENET, Dataset
from nab.defenses.stamping import StampedTraining
from nab.detection.lga import GradientAscent
from nab.digest import digest
from nab.models import ResNet9
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training import Batch, CrossEntropy, Predictor, RawBatches, Recipe, Runtime, Step, Trained, fit, make_optimizer
from nab.training.update import Update

CPU = torch.device("cpu")


def train(dataset: Dataset, step: Step | None = None, recipe: Recipe = TINY, **options: Any) -> Trained:
    return fit(fresh(dataset, recipe), source_of(dataset, recipe), recipe, step, **options)


# Steps.


class Witness(CrossEntropy):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.batches: list[Batch] = []
        self.losses: list[torch.Tensor] = []

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:
        self.begun.append(epoch)

    def images(self, batch: Batch) -> torch.Tensor:
        self.batches.append(dataclasses.replace(batch, images=batch.images.clone()))
        return batch.images

    def reduce(self, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
        self.losses.append(losses.detach().clone())
        return losses.mean()


def test_a_step_is_shown_every_sample_with_its_label_and_position(noise):
    witness = Witness()
    trained = train(noise, witness, TINY.without_augmentation())
    assert witness.begun == [0, 1]
    assert len(witness.batches) == len(witness.losses) == 4
    for batch, losses in zip(witness.batches, witness.losses, strict=True):
        torch.testing.assert_close(batch.images, noise.normalization.apply(noise.images[batch.positions]))
        assert torch.equal(batch.labels, noise.labels[batch.positions])
        assert losses.shape == batch.positions.shape
    for epoch in (witness.batches[:2], witness.batches[2:]):
        assert torch.cat([batch.positions for batch in epoch]).sort().values.tolist() == list(range(64))
    for row, parts in zip(trained.curve, (witness.losses[:2], witness.losses[2:]), strict=True):
        assert row["loss"] == pytest.approx(float(torch.stack(parts).mean()), abs=1e-6)


def test_a_step_that_changes_nothing_changes_nothing(noise):
    assert torch.equal(weights(train(noise, CrossEntropy())), weights(train(noise)))


def test_plain_training_smooths_labels_as_the_recipe_says(noise):
    smooth = dataclasses.replace(TINY, label_smoothing=0.3)
    plain = weights(train(noise, None, smooth))
    assert torch.equal(weights(train(noise, CrossEntropy(0.3), smooth)), plain)
    assert not torch.equal(weights(train(noise, CrossEntropy(), smooth)), plain), "a step has its own smoothing"


class Black(CrossEntropy):
    def images(self, batch: Batch) -> torch.Tensor:
        return torch.zeros_like(batch.images)


class Half(CrossEntropy):
    """Half of the gradient."""

    def reduce(self, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.mean() / 2


def test_what_a_step_makes_of_the_images_is_what_the_network_learns(noise):
    one = train(noise, Black())
    other = train(noise.replace(images=255 - noise.images), Black())
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(train(noise)))


def test_what_a_step_makes_of_the_losses_is_what_is_minimized(noise):
    """Without momentum and decay, half of the loss at a rate of 0.1 is the whole loss at 0.05."""
    plain = dataclasses.replace(TINY, momentum=0.0, weight_decay=0.0, epochs=1)
    half = train(noise, Half(), dataclasses.replace(plain, lr=0.1))
    whole = train(noise, None, dataclasses.replace(plain, lr=0.05))
    torch.testing.assert_close(weights(half), weights(whole))
    assert half.curve[0]["loss"] == pytest.approx(whole.curve[0]["loss"] / 2, rel=1e-4)


# Further sources.


class Counted(RawBatches):
    """Notes when its epochs begin."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.begun = 0
        super().__init__(torch.arange(float(count)), torch.zeros(count).long(), batch_size, stream(count, "x"))

    def epoch(self) -> Iterator[torch.Tensor]:
        self.begun += 1
        return super().epoch()


class Beside(Step):
    """Writes down what comes beside the training's own batch."""

    def __init__(self) -> None:
        self.seen: list[list[list[float]]] = []

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> torch.Tensor:
        self.seen.append([other.images.tolist() for other in beside])
        return predictor.forward(batch.images).square().mean()


def test_every_update_gets_a_batch_of_each_further_source_whose_epochs_follow_each_other(noise):
    """Four updates: two epochs of a source of two batches, and one and a third of a source of three."""
    step, others = Beside(), [Counted(4, 2), Counted(7, 3)]
    train(noise, step, beside=others)
    assert len(step.seen) == 4
    first, second = zip(*step.seen, strict=True)
    assert [sorted(first[k] + first[k + 1]) for k in (0, 2)] == [[0, 1, 2, 3]] * 2
    assert [len(rows) for rows in second] == [3, 3, 3, 3], "a last batch of one sample is left out"
    assert len({*second[0], *second[1]}) == 6
    assert [other.begun for other in others] == [2, 2]


# What steps say of themselves.


class Inherits(CrossEntropy):
    """A step that says nothing."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights


def test_methods_of_the_library_can_be_recorded_and_an_unknown_step_cannot():
    assert CrossEntropy.is_static
    assert StampedTraining.is_static
    assert GradientAscent.is_static
    assert not Beside.is_static
    assert not Inherits.is_static, "what a class says does not hold for what others make of it"


def test_steps_say_what_they_depend_on():
    mask = torch.tensor([True, False])
    assert Beside().inputs is None
    assert CrossEntropy(0.1).inputs == {"label_smoothing": 0.1}
    assert Inherits(mask).inputs == {"label_smoothing": 0.0, "weights": mask}, (
        "all attributes, unless it says otherwise"
    )
    assert GradientAscent(0.5, 2, CPU).inputs is None, "it collects losses"
    stamped = {"label_smoothing": 0.0, "stamp": Stamp(), "normalization": IMAGENET, "is_stamped": mask}
    said = StampedTraining(Stamp(), mask, IMAGENET, CPU).inputs
    assert said is not None
    assert digest(said) == digest(stamped)


# One update.


@pytest.mark.parametrize(
    ("device", "setting", "uses_graphs"),
    [("cuda", None, True), ("cuda", "1", True), ("cuda", "0", False), ("cpu", None, False), ("cpu", "1", False)],
)
def test_graphs_are_for_gpus_and_can_be_turned_off(monkeypatch, device, setting, uses_graphs):
    monkeypatch.delenv("NAB_CUDA_GRAPHS", raising=False)
    if setting is not None:
        monkeypatch.setenv("NAB_CUDA_GRAPHS", setting)
    network = ResNet9(width=16).build(2, (3, 8, 8))
    assert Runtime.choose(torch.device(device), "float32", network).uses_graphs is uses_graphs


@pytest.mark.parametrize("step", [CrossEntropy(), Half()])
def test_on_a_cpu_every_update_is_launched_on_the_samples_themselves(noise, monkeypatch, step):
    predictor = fresh(noise)
    optimizer = make_optimizer(list(predictor.network.parameters()), TINY, predictor.runtime)
    update = Update(predictor, source_of(noise), [], step, [optimizer])
    seen = []
    launch = update._update
    monkeypatch.setattr(update, "_update", lambda index: seen.append(index) or launch(index))
    before = [p.detach().clone() for p in predictor.network.parameters()]
    given = [torch.arange(32), torch.arange(40, 50)] * 4
    for index in given:
        update(index, 0.5)
    assert all(one is other for one, other in zip(seen, given, strict=True))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * TINY.lr)
    assert 0 < float(update.total) < 8 * 10
    assert any(not torch.equal(p, q) for p, q in zip(before, predictor.network.parameters(), strict=True))


def test_the_learning_rate_of_an_update_is_the_share_that_it_is_given(noise):
    moved = []
    for share in (0.0, 0.1, 1.0):
        predictor = fresh(noise)
        optimizer = make_optimizer(list(predictor.network.parameters()), TINY, predictor.runtime)
        update = Update(predictor, source_of(noise), [], CrossEntropy(), [optimizer])
        before = torch.cat([p.detach().flatten().clone() for p in predictor.network.parameters()])
        update(torch.arange(32), share)
        after = torch.cat([p.detach().flatten() for p in predictor.network.parameters()])
        moved.append(float((after - before).norm()))
    assert moved[0] == 0
    assert moved[2] == pytest.approx(10 * moved[1], rel=1e-3)
