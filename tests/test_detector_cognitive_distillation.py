"""Cognitive Distillation: first steps by hand, planted patterns, colors, candidates."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import TINY, FixedLogits, random_dataset
from planted import UNIT, given_around

from nab.data import Normalization
from nab.detection import CognitiveDistillation
from nab.detection.cognitive_distillation import random_colors, total_variation
from nab.errors import ConfigError
from nab.models import ResNet9
from nab.needs import Given
from nab.training import Trainer

LOGO = (slice(None), slice(None), slice(0, 2), slice(0, 2))


def logo(images: torch.Tensor) -> torch.Tensor:
    """Logits that follow from the 2 x 2 pixels in the corner alone."""
    level = 20 * images[LOGO].mean((1, 2, 3))
    return torch.stack([level, -level], 1)


def whole(images: torch.Tensor) -> torch.Tensor:
    """Logits to which all pixels add."""
    rows = 5 * images.mean(1).flatten(1)
    return torch.stack([rows.sum(1), -rows.sum(1)], 1)


def test_the_first_step_of_adam_moves_every_pixel_by_the_learning_rate():
    """Where the logits are constant only the sum pulls: w goes from 1 to 0.9, m to (tanh 0.9 + 1) / 2 = 0.858149."""
    detector = CognitiveDistillation(steps=1)
    masks = detector.distil(lambda x: x.new_zeros(len(x), 2) * x.sum(), torch.rand(3, 3, 8, 8), lambda: torch.zeros(1))
    torch.testing.assert_close(masks, torch.full((3, 1, 8, 8), 0.858149))


@pytest.mark.parametrize("change", [{}, {"lr": 0.2}, {"betas": (0.3, 0.4)}], ids=str)
def test_adam_is_that_of_the_authors_unless_told_otherwise(monkeypatch, change):
    seen = []
    plain = torch.optim.Adam
    monkeypatch.setattr(
        "torch.optim.Adam", lambda tensors, **options: seen.append(options) or plain(tensors, **options)
    )
    CognitiveDistillation(steps=1, **change).distil(logo, torch.rand(1, 3, 8, 8), lambda: torch.zeros(1))
    assert seen == [{"lr": 0.1, "betas": (0.1, 0.1)} | change]


def test_a_pattern_in_the_corner_needs_a_mask_of_the_corner():
    """Four pixels decide: they stay, and the other sixty go. With all sixty-four at work, all stay."""
    detector = CognitiveDistillation(beta=0.0)
    inputs, colors = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 1, 1)
    small, large = (detector.distil(network, inputs, lambda: colors) for network in (logo, whole))
    is_corner = torch.zeros(8, 8, dtype=torch.bool)
    is_corner[:2, :2] = True
    assert small[:, 0, is_corner].min() > 0.9
    assert small[:, 0, ~is_corner].max() < 0.01
    assert large.min() > 0.9


def test_a_mask_does_not_depend_on_the_images_beside_it():
    inputs = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    detector, colors = CognitiveDistillation(steps=20), torch.zeros(1, 3, 1, 1)
    together = detector.distil(logo, inputs, lambda: colors)
    alone = torch.cat([detector.distil(logo, image, lambda: colors) for image in inputs.split(1)])
    torch.testing.assert_close(together, alone)


def test_total_variation_is_the_sum_of_squared_differences_over_the_number_of_pixels():
    """0 1 / 0 0: one step to the right and one down, of four pixels; a flat mask has none."""
    masks = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]], [[[0.3, 0.3], [0.3, 0.3]]]])
    torch.testing.assert_close(total_variation(masks), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(total_variation(torch.tensor([[[[0.0, 3.0, 3.0]]]])), torch.tensor([3.0]))


def test_beta_smooths_the_mask():
    inputs, colors = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 1, 1)
    rough, smooth = (
        total_variation(CognitiveDistillation(beta=beta).distil(logo, inputs, lambda: colors)) for beta in (0.0, 100.0)
    )
    assert smooth < rough / 2


def test_the_fill_is_a_color_that_pixels_can_have_normalized_like_them():
    """Half-gray of deviation 0.01: black is -50, white 50; what is drawn in normalized space would lie in [0, 1]."""
    normalization = Normalization(mean=(0.5, 0.5, 0.5), std=(0.01, 0.01, 0.01))
    colors = random_colors(torch.zeros(500, 3, 8, 8), normalization, torch.Generator().manual_seed(0))
    assert colors.shape == (500, 3, 1, 1)
    assert -50 <= colors.min() < -49
    assert 49 < colors.max() <= 50
    assert abs(float(colors.mean())) < 2
    assert colors.unique().numel() > 1400, "another one for every image and channel"


def test_what_the_mask_hides_shows_a_color_that_is_new_in_every_step(noise):
    """On black images, the network is shown (1 - m) d, with m = (tanh 1 + 1) / 2 = 0.880797: flat, in [0, 0.12]."""
    seen = []
    network = FixedLogits(lambda x: seen.append(x.detach().clone()) or x[:, 0, 0, :4])
    black = noise.replace(images=torch.zeros_like(noise.images)).subset(torch.arange(40))
    CognitiveDistillation(steps=2).score(black, Trainer(), given_around(network, UNIT))
    plain, first, second = seen
    assert plain.abs().max() == 0, "the answer that is to be kept is that for the image itself"
    colors = first[:, :, :1, :1]
    torch.testing.assert_close(first, colors.expand_as(first))
    assert 0 < colors.min() < 0.01
    assert 0.11 < colors.max() < 1 - 0.880797
    assert (second[:, :, :1, :1] - colors).abs().mean() > 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_planted_logos_have_the_smallest_masks(channels):
    """A bright corner decides by itself; without it the answer comes from all over the image."""

    def answer(images):
        is_triggered = torch.sigmoid(40 * (images[LOGO].mean((1, 2, 3)) - 0.5))
        rest = 5 * images.mean(1).flatten(1)
        return torch.stack([20 * is_triggered, (1 - is_triggered) * rest.sum(1)], 1)

    planted = torch.arange(24) % 6 == 0
    dataset = random_dataset(24, channels=channels, classes=2)
    images = dataset.images // 4
    images[planted, :, :2, :2] = 255
    detector = CognitiveDistillation(steps=60, beta=1.0)
    given = given_around(FixedLogits(answer), UNIT)
    scores = detector.score(dataset.replace(images=images), Trainer(), given).scores
    assert scores.dtype == torch.float32
    assert scores[planted].min() > scores[~planted].max() + 10


def test_the_score_is_minus_the_sum_of_the_mask(noise):
    """After one step with constant logits: 64 pixels of 0.858149."""
    network = FixedLogits(lambda x: x[:, 0, 0, :4] * 0)
    scores = CognitiveDistillation(steps=1).score(noise, Trainer(), given_around(network)).scores
    torch.testing.assert_close(scores, torch.full((64,), -64 * 0.858149))


def test_only_the_share_of_least_loss_is_judged():
    """The network answers class 0 by the brightness of a pixel; all labels are 0, so the brightest have least loss."""
    network = FixedLogits(lambda x: torch.stack([x[:, 0, 0, 0], *[torch.zeros(len(x))] * 3], 1))
    given = given_around(network, UNIT)
    levels = torch.tensor([10, 200, 90, 250, 30, 120, 60, 160], dtype=torch.uint8)
    images = levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    dataset = random_dataset(8).replace(images=images, labels=torch.zeros(8, dtype=torch.long))
    scores = CognitiveDistillation(steps=1, candidate_share=0.5).score(dataset, Trainer(), given).scores
    assert (scores > -math.inf).tolist() == [False, True, False, True, False, True, False, True]
    one = CognitiveDistillation(steps=1, candidate_share=0.01).score(dataset, Trainer(), given).scores
    assert (one > -math.inf).nonzero().flatten().tolist() == [3], "at least one"


def test_the_attacked_model_is_left_as_it_was(noise):
    """Other members of an ensemble go on with it: weights, statistics, and what asks for gradients."""
    trainer = Trainer(recipe=dataclasses.replace(TINY, epochs=1), architecture=ResNet9(width=4))
    trained = trainer.train(noise, "training")
    network = trained.predictor.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asking = [parameter.requires_grad for parameter in network.parameters()]
    one, other = (
        CognitiveDistillation(steps=2).score(noise, trainer, Given(attacked=trained)).scores for _ in range(2)
    )
    assert torch.equal(one, other)
    assert one.unique().numel() > 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == asking
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps.*got 0"),
        ({"lr": 0}, r"lr in \(0, inf\), got 0"),
        ({"betas": (0.1,)}, "betas as two numbers"),
        ({"betas": (0.1, 1.0)}, r"betas in \[0, 1\), got 1"),
        ({"gamma": 0}, r"gamma in \(0, inf\), got 0"),
        ({"beta": -1}, r"beta in \[0, inf\), got -1"),
        ({"candidate_share": 0}, r"candidate_share in \(0, 1\], got 0"),
        ({"candidate_share": 1.5}, r"candidate_share in \(0, 1\], got 1.5"),
    ],
)
def test_cognitive_distillation_refuses_what_it_cannot_optimize(wrong, told):
    with pytest.raises(ConfigError, match=told):
        CognitiveDistillation(**wrong)
