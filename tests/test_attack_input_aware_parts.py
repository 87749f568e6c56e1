"""Input-aware: the networks and the losses, worked by hand."""

from __future__ import annotations

import pytest
import torch

from nab.attacks.generators import (
    Generator,
    distance,
    diversity_loss,
    make_generator,
    mask_loss,
    to_mask,
    to_pattern,
)
from nab.attacks.input_aware_training import mix
from nab.seeding import stream
from nab.training import freeze

# The networks.


def test_the_networks_have_as_many_parameters_as_the_source_says():
    def count(**sizes):
        return sum(parameter.numel() for parameter in Generator(**sizes).parameters())

    assert count(channels=3, outputs=3, width=32, levels=3) == 723_273
    assert count(channels=1, outputs=1, width=16, levels=2) == 42_339


@pytest.mark.parametrize(("size", "levels"), [(8, 2), (28, 2), (30, 2), (32, 3), (37, 3), (64, 3)])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (3, 1), (3, 3)])
def test_outputs_have_the_images_size(size, levels, channels, outputs):
    network = make_generator((channels, size, size), outputs, 4, 0, "test")
    images = torch.rand(2, channels, size, size, generator=stream(0, "test"))
    raw = freeze(network)(images)
    assert network.levels == levels
    assert raw.shape == (2, outputs, size, size)
    for bounded in (to_pattern(raw), to_mask(raw)):
        assert bounded.min() > 0
        assert bounded.max() < 1


def test_a_generator_s_weights_follow_from_seed_and_purpose():
    images = torch.rand(4, 3, 8, 8, generator=stream(0, "test"))
    one, same, other = (
        freeze(make_generator((3, 8, 8), 1, 8, seed, purpose))(images)
        for seed, purpose in [(0, "mask"), (0, "mask"), (0, "pattern")]
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_masks_are_nearly_black_and_white():
    raw = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0])
    assert to_mask(raw).tolist() == pytest.approx([0.0, 0.12, 0.5, 0.88, 1.0], abs=0.005)
    assert to_pattern(raw).tolist() == pytest.approx([0.12, 0.45, 0.5, 0.55, 0.88], abs=0.005)


# The losses, worked by hand.


def test_the_distance_is_a_root_of_a_mean_of_squares():
    one = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).view(2, 1, 2, 2)
    assert distance(one, torch.zeros_like(one)).tolist() == pytest.approx([1.5, 1.0])


def test_the_diversity_loss_is_the_mean_ratio_of_distances():
    images, others = torch.full((2, 1, 2, 2), 4.0), torch.zeros(2, 1, 2, 2)
    outputs = torch.tensor([2.0, 0.5]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert diversity_loss(images, others, outputs, torch.zeros_like(outputs)).item() == pytest.approx((2 + 8) / 2)


def test_the_mask_loss_counts_only_what_is_above_the_density():
    """Four pixels at .532, .032, .012 and 0 exceed .032 by .5, 0, 0, 0: 100 * .5 / 4. The diversity is 1 / .5."""
    masks = torch.tensor([0.532, 0.032, 0.012, 0.0]).view(1, 1, 2, 2)
    ones, zeros = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    found = mask_loss(ones, zeros, masks, masks + 0.5, density=0.032)
    assert found.item() == pytest.approx(12.5 + 2, rel=1e-4)


def test_equal_masks_have_a_gradient():
    masks = torch.zeros(1, 1, 2, 2, requires_grad=True)
    mask_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), masks, masks.detach(), 0.032).backward()
    assert masks.grad is not None
    assert masks.grad.isfinite().all()


def test_mixing_takes_the_pattern_where_the_mask_is_one():
    found = mix(torch.full((1, 3, 1, 3), 10.0), torch.full((1, 3, 1, 3), 30.0), torch.tensor([0.0, 0.5, 1.0]))
    assert found[0, 2, 0].tolist() == [10, 20, 30]
