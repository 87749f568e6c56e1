"""LGA: the reversed gradient, the losses that are kept, the authors' settings, and planted samples."""

from __future__ import annotations

import pytest
import torch
from helpers import fresh, random_dataset

from nab.detection import LGA, select_suspects
from nab.detection.lga import GradientAscent
from nab.errors import ConfigError
from nab.evaluation import auroc
from nab.models import ResNet9
from nab.needs import Given
from nab.training import Batch, Recipe, Trainer


def batch_at(positions: list[int]) -> Batch:
    """A batch of which positions count alone."""
    return Batch(torch.zeros(len(positions), 1, 1, 1), torch.zeros(len(positions)), torch.tensor(positions))


@pytest.mark.parametrize("level", [0.1, 0.4, 0.6, 3.0])
def test_the_gradient_is_reversed_below_gamma(level):
    """|L - g| + g has the gradient sign(L - g) dL of ABL's other form."""
    raw = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    losses = raw**2 * level
    mean = losses.mean()
    (expected,) = torch.autograd.grad(torch.sign(mean.detach() - 0.5) * mean, raw, retain_graph=True)
    step = GradientAscent(gamma=0.5, count=3, device=torch.device("cpu"))
    step.begin_epoch(0, fresh(random_dataset()))
    flooded = step.reduce(losses, batch_at([0, 1, 2]))
    (found,) = torch.autograd.grad(flooded, raw)
    torch.testing.assert_close(found, expected)
    assert float(flooded.detach()) >= 0.5


def test_the_step_keeps_every_samples_loss_of_every_epoch_in_its_place():
    """Two epochs of four samples in batches of two, in shuffled order."""
    step = GradientAscent(gamma=0.5, count=4, device=torch.device("cpu"))
    epochs = [[([0.3, 0.1], [3, 1]), ([0.0, 0.2], [0, 2])], [([1.2, 1.3], [2, 3]), ([1.0, 1.1], [0, 1])]]
    for epoch, batches in enumerate(epochs):
        step.begin_epoch(epoch, fresh(random_dataset()))
        for losses, index in batches:
            step.reduce(torch.tensor(losses, requires_grad=True), batch_at(index))
    torch.testing.assert_close(step.history(), torch.tensor([[0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3]]))


def test_a_sample_that_an_epoch_left_out_keeps_a_gap_in_that_epoch():
    step = GradientAscent(gamma=0.5, count=3, device=torch.device("cpu"))
    for epoch, index in enumerate(([2, 0], [1, 2])):
        step.begin_epoch(epoch, fresh(random_dataset()))
        step.reduce(torch.tensor([0.5, 0.7], requires_grad=True), batch_at(index))
    assert step.history().isnan().tolist() == [[False, True, False], [True, False, False]]


def test_lga_scores_are_minus_the_cross_entropy_of_each_sample(fake_training):
    """Logits by hand: the network is sure of class 0 on bright images, and knows nothing of dark ones."""
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[[1, 2]] = 255
    dataset = random_dataset(4).replace(images=images, labels=torch.tensor([0, 0, 1, 1]))
    fake_training.answer = lambda x: torch.stack([(x[:, 0, 0, 0] > 0) * 10.0, *[torch.zeros(len(x))] * 3], 1)
    scores = LGA().score(dataset, Trainer(), Given()).scores
    sure = float(torch.log(torch.exp(torch.tensor(10.0)) + 3))
    torch.testing.assert_close(scores, torch.tensor([-1.386294, 10 - sure, -sure, -1.386294]))
    assert select_suspects(scores, 0.25).tolist() == [False, True, False, False]


def test_lga_trains_as_the_authors_do(fake_training, noise):
    """20 epochs, batches of 64, SGD 0.1 / 0.9 / 1e-4 without Nesterov, no augmentation, cosine 80 epochs too long."""
    base = Recipe(nesterov=True, label_smoothing=0.1, weight_decay=0.5, schedule="one-cycle", optimizer="muon")
    LGA().score(noise, Trainer(recipe=base), Given())
    (call,) = fake_training.calls
    recipe = call.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (
        20,
        64,
        0.1,
        0.9,
        1e-4,
    )
    assert (recipe.nesterov, recipe.label_smoothing, recipe.schedule) == (False, 0.0, "cosine")
    assert (recipe.crop_padding, recipe.flip, recipe.cutout) == (0, False, 0)
    assert recipe.optimizer == "sgd"
    assert recipe.learning_rate(19 * 10, 10) > 0.092 * 0.99
    assert call.dataset is noise


def test_lga_finds_planted_samples(digits):
    """Images that all look alike and share a label are learned first: their loss is the least."""
    train = digits[0].subset(torch.arange(0, len(digits[0]), 2))
    is_planted = torch.arange(len(train)) % 8 == 0
    images, labels = train.images.clone(), train.labels.clone()
    images[is_planted] = 255
    labels[is_planted] = 0
    trainer = Trainer(recipe=Recipe(precision="float32"), architecture=ResNet9(width=4))
    detector = LGA(epochs=10, cosine_extra_epochs=0)
    scores = detector.score(train.replace(images=images, labels=labels), trainer, Given()).scores
    assert auroc(scores, is_planted) > 90
    assert is_planted[select_suspects(scores, 0.05)].float().mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"gamma": 0}, "gamma.*got 0"),
        ({"lr": -1}, "lr.*got -1"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_lga_refuses_what_it_cannot_train_with(wrong, told):
    with pytest.raises(ConfigError, match=told):
        LGA(**wrong)
