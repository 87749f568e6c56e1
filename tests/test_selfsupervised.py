"""Self-supervised training: the losses by hand, the loop, and whether encoders learn anything."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import TINY, fresh, random_dataset
from torch import nn

from nab.data import Dataset
from nab.errors import DataError, NabError
from nab.models import ResNet9
from nab.pseudolabels.nc import nearest_center
from nab.selfsupervised import (
    ENCODERS,
    BarlowTwins,
    SelfSupervised,
    SimCLR,
    Views,
    train_encoder,
)
from nab.training import Predictor, Recipe, Trainer

every_encoder = pytest.mark.parametrize("name", sorted(ENCODERS))

SHORT = {
    "simclr": SimCLR(epochs=2, batch_size=16),
    "barlow-twins": BarlowTwins(epochs=2, batch_size=16, dimensions=16, lr=0.005),
}
TRAINER = Trainer(TINY, ResNet9(width=4))


def weights(predictor: Predictor) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in predictor.network.state_dict().items()}


# The losses.


def test_nt_xent_has_both_views_as_anchors_and_leaves_out_the_anchor_itself():
    """Four anchors of length one with T = 1/2, whose scores are 2 where vectors agree and 0 where they are orthogonal.

    First views a = (1, 0), b = (0, 1); second views c = (1, 0), d = (1, 0), all scaled to length one first.
    a: other view 2, the rest d 2, b 0. b: other view 0, the rest c 0, a 0. c: other view 2, the rest d 2, b 0.
    d: other view 0, the rest c 2, a 2.
    """
    first, second = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0, 0.0], [7.0, 0.0]])
    e2 = math.exp(2)
    a = c = math.log((2 * e2 + 1) / e2)
    b, d = math.log(3), math.log(1 + 2 * e2)
    assert float(SimCLR().make_loss()(first, second)) == pytest.approx((a + b + c + d) / 4, abs=1e-5)
    assert (a + b + c + d) / 4 != pytest.approx((a + b) / 2, abs=0.1), "the first views alone as anchors"


def test_nt_xent_has_the_temperature_it_is_given():
    """Scores of 1 / T: ln(1 + 2 exp(-1)) for T = 1."""
    views = torch.eye(2)
    assert float(SimCLR(temperature=1.0).make_loss()(views, views)) == pytest.approx(0.551445, abs=1e-5)


def test_barlow_twins_wants_ones_on_the_diagonal_and_zeros_beside_it():
    """Numbers (x, y) of one view and (x, x) of the other, x and y uncorrelated: C = [[1, 1], [0, 0]]."""
    x, y = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    first, second = torch.stack([3 * x + 5, y], 1), torch.stack([x, 2 * x - 1], 1)
    for redundancy in (0.005, 0.5):
        loss = BarlowTwins(redundancy=redundancy).make_loss()
        assert float(loss(first, second)) == pytest.approx(1 + redundancy, abs=1e-4)
        assert float(loss(first, first)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        (SimCLR(), ["Linear 8 8", "BatchNorm1d", "ReLU", "Linear 8 128"]),
        (
            BarlowTwins(dimensions=16),
            ["Linear 8 16", "BatchNorm1d", "ReLU", "Linear 16 16", "BatchNorm1d", "ReLU", "Linear 16 16"],
        ),
    ],
)
def test_heads_have_their_sources_layers(encoder, layers):
    found = []
    for layer in list(encoder.make_head(8).modules())[2:]:
        sizes = f" {layer.in_features} {layer.out_features}" if isinstance(layer, torch.nn.Linear) else ""
        found.append(type(layer).__name__ + sizes)
    assert found == layers


def test_defaults_are_the_sources():
    simclr, twins = SimCLR(), BarlowTwins()
    assert (simclr.batch_size, simclr.lr, simclr.momentum, simclr.weight_decay) == (512, 0.4, 0.9, 1e-4)
    assert (simclr.temperature, simclr.dimensions, simclr.epochs) == (0.5, 128, 100)
    assert (twins.lr, twins.momentum, twins.weight_decay, twins.redundancy) == (0.11, 0.9, 5e-4, 5e-3)
    recipe = simclr.recipe(Recipe(precision="bfloat16", label_smoothing=0.1, schedule="one-cycle", lr=3.0))
    assert (recipe.schedule, recipe.label_smoothing, recipe.precision, recipe.lr) == ("cosine", 0.0, "bfloat16", 0.4)


def test_the_learning_rate_is_a_cosine_that_ends_or_goes_on_as_told():
    assert SimCLR().recipe(Recipe()).learning_rate(50, 1) == pytest.approx(0.2)
    assert SimCLR(cosine_extra_epochs=900).recipe(Recipe()).learning_rate(99, 1) == pytest.approx(0.39035, abs=1e-4)


# The training.


@dataclasses.dataclass(frozen=True)
class Judge(SelfSupervised):
    """An encoder whose loss is a known number, and which notes what it is shown."""

    epochs: int = 2
    batch_size: int = 8
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    cosine_extra_epochs: int = 0
    scale: float = 1.0
    shift: float = 0.0

    def make_head(self, features: int) -> nn.Module:
        return nn.Linear(features, 4)

    def make_loss(self):
        return self.judge

    def judge(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert first.dtype == second.dtype == torch.float32
        assert not torch.equal(first, second)
        SIZES.append(len(first))
        return (first - second).square().mean() * self.scale + self.shift


class Apart(Judge):
    joins_views = False


SIZES: list[int] = []


@pytest.fixture(autouse=True)
def _no_sizes() -> None:
    SIZES.clear()


def judged(count: int, judge: SelfSupervised = Judge()) -> list[dict[str, float]]:
    dataset = random_dataset(count)
    return judge.train(dataset, fresh(dataset), 0)


@pytest.mark.parametrize(("count", "expected"), [(16, [8, 8, 8, 8]), (23, [8, 8, 8, 8]), (5, [5, 5]), (2, [2, 2])])
def test_what_does_not_fill_a_batch_is_left_out_unless_it_is_all(count, expected):
    judged(count)
    assert expected == SIZES


def test_a_row_per_epoch_has_its_loss_and_learning_rate():
    curve = judged(16, Judge(scale=0.0, shift=3.0))
    assert [row["epoch"] for row in curve] == [1, 2]
    assert [row["lr"] for row in curve] == [0.1, 0.05]
    assert [row["loss"] for row in curve] == [3, 3], "the mean of two batches"


def test_one_image_is_too_few():
    with pytest.raises(DataError, match="at least two training images"):
        judged(1)
    with pytest.raises(DataError, match="encoder: expected at least two training images, got 1"):
        train_encoder(random_dataset(1), TRAINER, Judge())


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(NabError, match=r"encoder \(Judge\): the loss is nan after epoch 1; use a lower learning rate"):
        judged(16, Judge(scale=math.nan))


@pytest.mark.parametrize(("judge", "passes"), [(Judge(), [16] * 4), (Apart(), [8] * 8)])
def test_two_views_pass_together_or_one_after_the_other(judge, passes):
    """SimCLR's paper has them in one batch, Barlow Twins' each by itself."""
    dataset = random_dataset(16)
    predictor, seen = fresh(dataset), []
    predictor.network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    judge.train(dataset, predictor, 0)
    assert seen == passes
    assert SimCLR.joins_views
    assert not BarlowTwins.joins_views


@every_encoder
@pytest.mark.parametrize("channels", [1, 3])
def test_training_changes_the_encoder_and_leaves_its_last_layer(name, channels):
    dataset = random_dataset(32, channels=channels)
    predictor = fresh(dataset)
    before = weights(predictor)
    curve = SHORT[name].train(dataset, predictor, 0)
    after = weights(predictor)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same == {"classifier.weight", "classifier.bias"}
    assert len(curve) == 2
    assert not predictor.network.training


@every_encoder
def test_the_same_seed_trains_the_very_same_encoder_and_another_one_another(name):
    dataset = random_dataset(32)
    first, again, other = (fresh(dataset) for _ in range(3))
    for predictor, seed in ((first, 1), (again, 1), (other, 2)):
        torch.rand(seed)  # torch's global generator plays no part
        SHORT[name].train(dataset, predictor, seed)
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(first).items())
    assert not torch.equal(weights(first)["stem.0.weight"], weights(other)["stem.0.weight"])


def test_head_order_and_views_come_from_the_seed(monkeypatch):
    seen = []

    def spy(predictor: Predictor, source: Any, recipe: Recipe, step: Any, *, along: Any, **_: Any) -> Any:
        (head,) = along
        batch = source.batch(next(source.epoch()))
        seen.append((head.layers[0].weight.detach(), batch.positions, step._views.draw(batch.images, step._generator)))
        return SimpleNamespace(curve=[])

    monkeypatch.setattr("nab.selfsupervised.base.fit", spy)
    for seed in (1, 1, 2):
        SimCLR().train(random_dataset(16), fresh(random_dataset(16)), seed)
    for first, again, other in zip(*seen, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@every_encoder
def test_encoders_train_in_low_precision(name):
    dataset = random_dataset(16)
    predictor = fresh(dataset, width=16, recipe=dataclasses.replace(TINY, precision="bfloat16"))
    assert all(math.isfinite(row["loss"]) for row in SHORT[name].train(dataset, predictor, 0))
    assert predictor.features(dataset.images).dtype == torch.float32


def textures(count: int = 400) -> Dataset:
    """Four patterns of stripes and checks in noise, of any brightness: gray images of 8 x 8."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    patterns = torch.stack([y // 2 % 2, x // 2 % 2, (x + y) // 2 % 2, (x // 2 + y // 2) % 2]) - 0.5
    labels = torch.arange(count) % 4
    noise = 50 * torch.randn(count, 1, 8, 8, generator=generator)
    brightness = 60 * torch.randn(count, 1, 1, 1, generator=generator)
    images = 128 + brightness + 140 * patterns[labels][:, None] + noise
    return Dataset(images.clamp(0, 255).to(torch.uint8), labels, tuple("abcd"))


MILD = Views(scale=(0.8, 1.0), ratio=(0.9, 1.1), flip_rate=0, blur_rate=0)
"""A mirrored or blurred pattern of eight pixels may be another one."""


@pytest.mark.parametrize(
    "encoder",
    [
        SimCLR(epochs=6, batch_size=64, lr=0.1, views=MILD),
        BarlowTwins(epochs=10, batch_size=64, lr=0.003, redundancy=0.05, dimensions=32, views=MILD),
    ],
    ids=["simclr", "barlow-twins"],
)
def test_trained_features_tell_classes_apart_that_fresh_ones_do_not(encoder):
    """About 98 % against 75 %."""
    dataset = textures()

    def accuracy(predictor: Predictor) -> float:
        everything = torch.ones(len(dataset), dtype=torch.bool)
        found = nearest_center(predictor.features(dataset.images), dataset.labels, everything)
        return float((found == dataset.labels).float().mean())

    predictor = fresh(dataset, width=8)
    before = accuracy(predictor)
    encoder.train(dataset, predictor, 0)
    assert accuracy(predictor) > before + 0.1
