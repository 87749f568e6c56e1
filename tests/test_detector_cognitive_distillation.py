"""Cognitive Distillation: first steps by hand, planted patterns, colours, candidates."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_dataset

from nab.detection import CognitiveDistillation
from nab.detection.cognitive_distillation import random_colours, total_variation
from nab.errors import ConfigError
from nab.training import Context, Recipe

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
    inputs, colours = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 1, 1)
    small, large = (detector.distil(network, inputs, lambda: colours) for network in (logo, whole))
    is_corner = torch.zeros(8, 8, dtype=torch.bool)
    is_corner[:2, :2] = True
    assert small[:, 0, is_corner].min() > 0.9
    assert small[:, 0, ~is_corner].max() < 0.01
    assert large.min() > 0.9


def test_a_mask_does_not_depend_on_the_images_beside_it():
    inputs = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    detector, colours = CognitiveDistillation(steps=20), torch.zeros(1, 3, 1, 1)
    together = detector.distil(logo, inputs, lambda: colours)
    alone = torch.cat([detector.distil(logo, image, lambda: colours) for image in inputs.split(1)])
    torch.testing.assert_close(together, alone)


def test_total_variation_is_the_sum_of_squared_differences_over_the_number_of_pixels():
    """0 1 / 0 0: one step to the right and one down, of four pixels; a flat mask has none."""
    masks = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]], [[[0.3, 0.3], [0.3, 0.3]]]])
    torch.testing.assert_close(total_variation(masks), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(total_variation(torch.tensor([[[[0.0, 3.0, 3.0]]]])), torch.tensor([3.0]))


def test_beta_smooths_the_mask():
    inputs, colours = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 1, 1)
    rough, smooth = (
        total_variation(CognitiveDistillation(beta=beta).distil(logo, inputs, lambda: colours)) for beta in (0.0, 100.0)
    )
    assert smooth < rough / 2


def test_the_fill_is_a_colour_that_pixels_can_have_normalised_like_them():
    """Half-grey of deviation 0.01: black is -50, white 50; what is drawn in normalised space would lie in [0, 1]."""
    recipe = Recipe(mean=(0.5, 0.5, 0.5), std=(0.01, 0.01, 0.01))
    colours = random_colours(torch.zeros(500, 3, 8, 8), recipe, torch.Generator().manual_seed(0))
    assert colours.shape == (500, 3, 1, 1)
    assert -50 <= colours.min() < -49
    assert 49 < colours.max() <= 50
    assert abs(float(colours.mean())) < 2
    assert colours.unique().numel() > 1400, "another one for every image and channel"


def test_what_the_mask_hides_shows_a_colour_that_is_new_in_every_step(fake_training, noise):
    """On black images, the network is shown (1 - m) d, with m = (tanh 1 + 1) / 2 = 0.880797: flat, in [0, 0.12]."""
    seen = []
    fake_training.answer = lambda x: seen.append(x.detach().clone()) or x[:, 0, 0, :4]
    recipe = Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    black = noise.replace(images=torch.zeros_like(noise.images)).subset(torch.arange(40))
    CognitiveDistillation(steps=2).score(black, Context(recipe=recipe))
    plain, first, second = seen
    assert plain.abs().max() == 0, "the answer that is to be kept is that for the image itself"
    colours = first[:, :, :1, :1]
    torch.testing.assert_close(first, colours.expand_as(first))
    assert 0 < colours.min() < 0.01
    assert 0.11 < colours.max() < 1 - 0.880797
    assert (second[:, :, :1, :1] - colours).abs().mean() > 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_planted_logos_have_the_smallest_masks(fake_training, channels):
    """A bright corner decides by itself; without it the answer comes from all over the image."""

    def answer(images):
        is_triggered = torch.sigmoid(40 * (images[LOGO].mean((1, 2, 3)) - 0.5))
        rest = 5 * images.mean(1).flatten(1)
        return torch.stack([20 * is_triggered, (1 - is_triggered) * rest.sum(1)], 1)

    fake_training.answer = answer
    planted = torch.arange(24) % 6 == 0
    dataset = random_dataset(24, channels=channels, classes=2)
    images = dataset.images // 4
    images[planted, :, :2, :2] = 255
    recipe = Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    scores = CognitiveDistillation(steps=60, beta=1.0).score(dataset.replace(images=images), Context(recipe=recipe))
    assert scores.dtype == torch.float32
    assert scores[planted].min() > scores[~planted].max() + 10


def test_the_score_is_minus_the_sum_of_the_mask(fake_training, noise):
    """After one step with constant logits: 64 pixels of 0.858149."""
    fake_training.answer = lambda x: x[:, 0, 0, :4] * 0
    scores = CognitiveDistillation(steps=1).score(noise, Context())
    torch.testing.assert_close(scores, torch.full((64,), -64 * 0.858149))


def test_only_the_share_of_least_loss_is_looked_at(fake_training):
    """The network answers class 0 by the brightness of a pixel; all labels are 0, so the brightest have least loss."""
    fake_training.answer = lambda x: torch.stack([x[:, 0, 0, 0], *[torch.zeros(len(x))] * 3], 1)
    levels = torch.tensor([10, 200, 90, 250, 30, 120, 60, 160], dtype=torch.uint8)
    images = levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    dataset = random_dataset(8).replace(images=images, labels=torch.zeros(8, dtype=torch.long))
    scores = CognitiveDistillation(steps=1, candidate_share=0.5).score(dataset, Context())
    assert (scores > -math.inf).tolist() == [False, True, False, True, False, True, False, True]
    one = CognitiveDistillation(steps=1, candidate_share=0.01).score(dataset, Context())
    assert (one > -math.inf).nonzero().flatten().tolist() == [3], "at least one"


def test_the_attacked_model_is_left_as_it_was(noise, monkeypatch):
    """Other methods go on with it: weights, statistics, and what asks for gradients."""
    context = Context(recipe=Recipe(epochs=1, precision="float32"), model="resnet9", width=4)
    trained = context.train_plainly(noise)
    monkeypatch.setattr(Context, "train_plainly", lambda self, dataset: trained)
    network = trained.predictor.model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    one, other = (CognitiveDistillation(steps=2).score(noise, context) for _ in range(2))
    assert torch.equal(one, other)
    assert one.unique().numel() > 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(p.grad, last) for p, last in zip(network.parameters(), gradients, strict=True))


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
def test_cognitive_distillation_refuses_what_it_cannot_optimise(wrong, told):
    with pytest.raises(ConfigError, match=told):
        CognitiveDistillation(**wrong)
