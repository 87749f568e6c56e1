"""The one training loop: what it minimizes, from which batches, in which order, and what it hands back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import EASY, TINY, fresh, quadrants, random_dataset, source_of, weights
from torch import nn

from nab.data import Dataset, Normalization
from nab.errors import DataError, NabError
from nab.seeding import stream
from nab.training import Batch, Predictor, RawBatches, Recipe, Runtime, Step, Trained, fit

CPU = torch.device("cpu")


def train(
    dataset: Dataset, recipe: Recipe = TINY, *args: Any, width: int = 4, seed: int = 0, **options: Any
) -> Trained:
    return fit(fresh(dataset, recipe, width, seed), source_of(dataset, recipe, seed), recipe, **options)


class Linear(nn.Module):
    """One weight per class and a bias, zero at first; rows of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(2, 2)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.classifier(rows.flatten(1))


def linear() -> Predictor:
    return Predictor(Linear(), Normalization(), Runtime(CPU, torch.float32, channels_last=False))


# What is learned.


def test_one_update_of_a_linear_network_is_worked_out_by_hand():
    """Two rows (1, 0) and (0, 2) of classes 0 and 1. All logits are 0, so the mean cross-entropy has the gradients
    (p - y) x / 2 with p = 1/2: weights [[-1/4, 1/2], [1/4, -1/2]], biases 0. The rate is 0.1."""
    rows, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1), torch.tensor([0, 1])
    recipe = Recipe(epochs=1, batch_size=2, lr=0.1, weight_decay=0.0, schedule="constant", precision="float32")
    trained = fit(linear(), RawBatches(rows, labels, 2, stream(0, "x")), recipe)
    layer = trained.predictor.network.classifier
    torch.testing.assert_close(layer.weight, torch.tensor([[0.025, -0.05], [-0.025, 0.05]]))
    torch.testing.assert_close(layer.bias, torch.zeros(2))
    assert trained.curve == [{"epoch": 1, "loss": pytest.approx(0.693147, abs=1e-6), "lr": 0.1}]


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(noise, width, precision):
    recipe = dataclasses.replace(TINY, precision=precision)
    one, other, third = (train(noise, recipe, width=width, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(weights(one), weights(other))
    assert one.curve == other.curve
    assert not torch.equal(weights(one), weights(third))


def test_gray_images_can_be_trained_on():
    trained = train(random_dataset(channels=1))
    assert trained.predictor.predict(random_dataset(channels=1).images).shape == (64,)


def test_training_learns():
    trained = train(quadrants(), EASY)
    assert trained.curve[-1]["loss"] < 0.5 * trained.curve[0]["loss"]
    others = quadrants(200)
    assert (trained.predictor.predict(others.images) == others.labels).float().mean() > 0.9


def test_training_goes_on_from_the_weights_that_a_network_has(noise):
    predictor = fresh(noise)
    before = weights_of(predictor)
    fit(predictor, source_of(noise), dataclasses.replace(TINY, lr=1e-9, epochs=1))
    torch.testing.assert_close(weights_of(predictor), before, rtol=0, atol=1e-6)


def weights_of(predictor: Predictor) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in predictor.network.parameters()])


# The curve.


def test_the_curve_has_a_row_per_epoch_with_what_was_observed(noise):
    recipe = dataclasses.replace(TINY, epochs=3)
    seen = []

    def observe(predictor: Predictor) -> dict[str, float]:
        seen.append(weights_of(predictor))
        return {"clean_accuracy": 10.0 * len(seen)}

    trained = train(noise, recipe, observe=observe)
    assert [row["epoch"] for row in trained.curve] == [1, 2, 3]
    assert [row["clean_accuracy"] for row in trained.curve] == [10, 20, 30]
    assert [row["lr"] for row in trained.curve] == [recipe.learning_rate(epoch * 2 + 1, 2) for epoch in range(3)]
    assert all(0 < row["loss"] < 10 for row in trained.curve)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], weights(trained)), "the observer is shown the network as it is"
    assert trained.images_per_second > 0


def test_observing_does_not_change_what_is_learned(noise):
    watched = train(noise, observe=lambda predictor: {"x": float(predictor.predict(noise.images)[0])})
    assert torch.equal(weights(watched), weights(train(noise)))


def test_a_loss_that_diverges_is_an_error_that_names_the_remedy(noise):
    with pytest.raises(NabError, match=r"test run: the loss is (nan|inf) after epoch \d.*lower learning rate \(lr\)"):
        train(noise, dataclasses.replace(TINY, lr=1e18, epochs=5), title="test run")


def test_a_single_image_cannot_be_trained_on(noise):
    """Batch normalization needs two."""
    one = noise.subset(torch.tensor([0]))
    with pytest.raises(DataError, match="x: expected at least two training images"):
        train(one, title="x")
    with pytest.raises(DataError, match="x: expected at least two training images"):
        train(noise, title="x", beside=[source_of(one)])


# Modules and optimizers of one's own.


class ThroughHead(Step):
    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> torch.Tensor:
        assert predictor.network.training
        assert self.head.training
        return self.head(predictor.apply(predictor.network.features, batch.images)).square().mean()


def test_modules_along_are_trained_with_the_network_and_left_in_evaluation_mode(noise):
    linear, predictor = nn.Linear(32, 3), fresh(noise)
    head = nn.Sequential(linear, nn.BatchNorm1d(3))
    before = linear.weight.detach().clone()
    fit(predictor, source_of(noise), TINY, ThroughHead(head), along=[head])
    assert not torch.equal(linear.weight, before)
    assert not head.training
    assert not predictor.network.training


def test_frozen_parts_keep_their_statistics_and_others_do_not(noise):
    predictor = fresh(noise)
    norms: list[Any] = [part for part in predictor.network.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    fit(predictor, source_of(noise), TINY, frozen=norms[:2])
    assert [torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)] == [
        position < 2 for position in range(len(norms))
    ]


def test_parameters_without_gradients_stay_as_they_are(noise):
    predictor = fresh(noise)
    predictor.network.stem.requires_grad_(False)
    before = predictor.network.stem[0].weight.detach().clone()
    fit(predictor, source_of(noise), TINY)
    assert torch.equal(predictor.network.stem[0].weight, before)


def test_given_optimizers_take_all_steps_and_the_schedule_scales_their_own_rates():
    """A rate of 0.4 for weights and 0.2 for biases; the recipe, of rate 0.1, halves the rates at epoch 1."""
    predictor = linear()
    layer = predictor.network.classifier
    optimizers = [torch.optim.SGD([layer.weight], lr=0.4), torch.optim.SGD([layer.bias], lr=0.2)]
    rows, labels = torch.ones(2, 2, 1, 1), torch.zeros(2).long()
    recipe = Recipe(epochs=2, batch_size=2, lr=0.1, schedule="steps", milestones=(1,), step_factor=0.5)
    rates = []

    def observe(_: Predictor) -> dict[str, float]:
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        return {}

    trained = fit(
        predictor,
        RawBatches(rows, labels, 2, stream(0, "x")),
        dataclasses.replace(recipe, precision="float32"),
        optimizers=optimizers,
        observe=observe,
    )
    assert rates == [[pytest.approx(0.4), pytest.approx(0.2)], [pytest.approx(0.2), pytest.approx(0.1)]]
    assert [row["lr"] for row in trained.curve] == [0.1, 0.05]
    first, logit = 0.5, 0.4 * 0.5 * 2 + 0.2 * 0.5  # of class 0 after one step; that of class 1 is its negative
    second = 1 - 1 / (1 + torch.tensor(-2 * logit).exp())
    torch.testing.assert_close(layer.weight[0], torch.full((2,), 0.4 * first + 0.2 * float(second)))
    torch.testing.assert_close(layer.bias[0], torch.tensor(0.2 * first + 0.1 * float(second)))
