"""LN: its loss by hand and by definition, planted wrong labels, and what it asks of the encoder."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import BRIEF, TINY, random_dataset
from torch import Tensor, nn
from torch.nn import functional as F

import nab
from nab.data import Dataset
from nab.detection import LN, select_suspects
from nab.errors import ConfigError, DataError, NabError
from nab.models import ResNet9
from nab.needs import Given
from nab.selfsupervised import train_encoder
from nab.training import Predictor, Recipe, Runtime, Trainer

TRAINER = Trainer(recipe=TINY, architecture=ResNet9(width=4))


# The loss.


def test_the_loss_of_a_clueless_network_is_worked_out_by_hand():
    """p_y = 1/4: 0.1 * ln 4 + 9.21034 * 3/4."""
    losses = LN().losses(torch.zeros(2, 4), torch.tensor([0, 3]))
    torch.testing.assert_close(losses, torch.full((2,), 7.046384))


@pytest.mark.parametrize(("ce_weight", "rce_weight"), [(0.1, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.3)])
def test_the_loss_is_that_of_its_definition(ce_weight, rce_weight):
    """The labels' logarithms cut off at 1e-4, whose own is -9.21034."""
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(50) % 5
    p = logits.softmax(1)
    reverse = -(p * F.one_hot(labels, 5).float().clamp(min=1e-4).log()).sum(1)
    expected = ce_weight * -p[torch.arange(50), labels].log() + rce_weight * reverse
    torch.testing.assert_close(LN(ce_weight=ce_weight, rce_weight=rce_weight).losses(logits, labels), expected)


def test_the_order_of_the_losses_is_that_of_minus_the_labels_probability():
    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(500) % 5
    probability = logits.double().softmax(1)[torch.arange(500), labels]
    assert torch.equal(LN().losses(logits, labels).argsort(), (-probability).argsort())


def test_losses_stay_finite_where_a_probability_is_zero():
    """0.1 * 400 + 9.21034, and nothing at all for a label that is certain."""
    losses = LN().losses(torch.tensor([[200.0, -200.0], [200.0, -200.0]]), torch.tensor([1, 0]))
    torch.testing.assert_close(losses, torch.tensor([49.21034, 0.0]))


# The detector, on features that are given.


class Colors(nn.Module):
    """Features of images are the average color times a factor; ``seen`` holds the images."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self._factor = factor

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.mean((2, 3)) * self._factor


def scores_on(network: nn.Module, dataset: Dataset, detector: LN) -> Tensor:
    """Scores from the features of ``network``."""
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    return detector.score(dataset, TRAINER, Given(encoder=Predictor(network, dataset.normalization, runtime))).scores


def colors(wrong: list[int], count: int = 60) -> Dataset:
    """Three classes of pure colors with some noise; the label of the images in ``wrong`` is 0."""
    dataset = random_dataset(count, classes=3)
    images = dataset.images // 8
    for label in range(3):
        images[label::3, label] += 220
    labels = dataset.labels.clone()
    labels[wrong] = 0
    return dataset.replace(images=images, labels=labels)


WRONG = [4, 7, 20, 32, 41]


def test_wrong_labels_have_the_highest_scores():
    scores = scores_on(Colors(), colors(WRONG), LN(lr=0.1))
    assert (scores.dtype, scores.device.type) == (torch.float32, "cpu")
    assert select_suspects(scores, 5 / 60).nonzero().squeeze(1).tolist() == WRONG


def test_without_augmentation_every_image_is_encoded_once():
    scores_on(network := Colors(), colors(WRONG), LN(epochs=3))
    assert [len(images) for images in network.seen] == [60]


def test_with_augmentation_every_image_is_encoded_anew_in_every_epoch_and_scored_as_it_is():
    dataset = colors(WRONG)
    scores_on(network := Colors(), dataset, LN(epochs=3, batch_size=32, augment=True))
    assert [len(images) for images in network.seen] == [60] + [32, 28] * 3
    assert torch.equal(network.seen[0], dataset.normalization.apply(dataset.images))
    black = dataset.normalization.apply(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    moved = (torch.cat(network.seen[1:])[:, :, 0] - black[:, :, 0]).abs().amax((1, 2)) < 1e-6
    assert moved.any(), "no image was moved"
    assert not moved.all()


def test_features_and_labels_stay_together_in_shuffled_batches():
    """A classifier that learned pairs that do not belong together could not know these."""
    scores = scores_on(Colors(), colors([]), LN(lr=0.1, epochs=20, batch_size=7))
    assert float(scores.max()) < 1


def test_the_classifier_is_trained_by_adam_at_a_constant_rate(monkeypatch):
    seen = []
    plain = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: seen.append(self.param_groups[0]["lr"]) or plain(self))
    scores_on(Colors(), colors([]), LN(epochs=3, batch_size=32))
    assert seen == [0.002] * 6


@pytest.mark.parametrize(("fault", "told"), [(math.nan, "finite self-supervised features"), (0.0, "are the same")])
def test_features_that_tell_nothing_are_refused(fault, told):
    with pytest.raises(NabError, match=told):
        scores_on(Colors(fault), colors(WRONG), LN())


def test_a_training_that_diverges_is_told():
    with pytest.raises(NabError, match=r"detection \(ln\): the loss is (nan|inf) after epoch \d"):
        scores_on(Colors(1e30), colors(WRONG), LN(lr=1e30))


def test_labels_of_one_class_are_refused_before_an_encoder_is_trained(monkeypatch):
    monkeypatch.setattr("nab.defenses.supply.train_encoder", lambda *_: pytest.fail("an encoder was trained"))
    dataset = random_dataset(8).replace(labels=torch.ones(8, dtype=torch.long))
    with pytest.raises(DataError, match="at least two"):
        nab.find_suspects(dataset, LN(), trainer=TRAINER)


# The detector, with an encoder of its own.


@pytest.mark.parametrize("augment", [False, True])
def test_the_encoder_stays_as_it_is(augment):
    dataset = random_dataset(32)
    encoder = train_encoder(dataset, TRAINER, BRIEF)
    encoder.network.zero_grad(set_to_none=True)
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    LN(epochs=2, augment=augment).score(dataset, TRAINER, Given(encoder=encoder))
    assert all(torch.equal(value, before[name]) for name, value in encoder.network.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.network.parameters())


def test_the_recipe_holds_only_what_scores_depend_on():
    base = Recipe(epochs=7, lr=0.3, crop_padding=2, cutout=5, label_smoothing=0.1)
    plain, augmented = LN().recipe(base), LN(augment=True).recipe(base)
    assert (plain.epochs, plain.batch_size, plain.lr, plain.schedule) == (10, 128, 0.002, "constant")
    assert (plain.crop_padding, plain.flip, plain.cutout, plain.label_smoothing) == (0, False, 0, 0.0)
    assert (augmented.crop_padding, augmented.flip, augmented.cutout) == (2, True, 0)
    assert LN().recipe(Recipe(epochs=9)) == plain


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"lr": 0}, "lr.*got 0"),
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"ce_weight": -1}, "ce_weight.*got -1"),
        ({"rce_weight": math.inf}, "rce_weight.*got inf"),
        ({"ce_weight": 0, "rce_weight": 0}, r"ce_weight \+ rce_weight in \(0, inf\], got 0"),
    ],
)
def test_ln_refuses_what_it_cannot_train_with(wrong, told):
    with pytest.raises(ConfigError, match=told):
        LN(**wrong)
