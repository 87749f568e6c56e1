"""Updates by orthogonal momentum, against singular value decompositions and steps worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nab.detection import FCT, LGA
from nab.errors import NabError
from nab.models import ResNet9
from nab.pseudolabels import VD
from nab.training import Recipe
from nab.training.muon import COEFFICIENTS, NEWTON_SCHULZ_STEPS, Muon, orthogonalized


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_coefficients_are_the_sources():
    assert COEFFICIENTS == (3.4445, -4.7750, 2.0315)


def lifted(values: torch.Tensor) -> torch.Tensor:
    """What the iteration makes of singular values: an odd polynomial of degree five, several times."""
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", [(2, 5, 9), (1, 9, 5), (3, 6, 6), (1, 1, 4)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomial(shape):
    matrices = noise(*shape).double()
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    expected = u @ torch.diag_embed(lifted(s)) @ vh
    torch.testing.assert_close(orthogonalized(matrices.float()), expected.float(), rtol=1e-3, atol=1e-4)


def test_singular_values_that_are_not_tiny_come_near_one():
    """The source: between about 0.7 and 1.2 (after five steps; after three, those from a tenth of the norm on)."""
    values = lifted(torch.linspace(0.1, 1, 1000))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_products_in_bfloat16_are_nearly_those_in_float32():
    matrices = noise(2, 16, 144)
    torch.testing.assert_close(
        orthogonalized(matrices, torch.bfloat16), orthogonalized(matrices), rtol=0.1, atol=0.05, check_dtype=True
    )


def make_muon(*parameters: nn.Parameter, **changes) -> Muon:
    """Of these and of a classifier, which every network has."""
    parameters = (*parameters, nn.Parameter(torch.zeros(1)))
    settings = {"lr": 0.2, "max_lr": 0.2, "filter_lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    return Muon(parameters, **(settings | changes), precision=torch.float32)


def test_an_update_turns_filters_of_a_constant_norm():
    """Two steps by hand: momentum g, then g' + 0.9 g, each looked ahead of by another 0.9 of it."""
    filters = nn.Parameter(noise(4, 2, 3, 3))
    muon = make_muon(filters)
    gradients, momentum, expected = noise(2, 4, 2, 3, 3), torch.zeros(4, 18), filters.detach().flatten(1).clone()
    for gradient in gradients:
        filters.grad = gradient.clone()
        muon.step()
        momentum = 0.9 * momentum + gradient.flatten(1)
        update = orthogonalized((gradient.flatten(1) + 0.9 * momentum)[None])[0]
        expected = expected * math.sqrt(4) / expected.norm() - 0.05 * update
        torch.testing.assert_close(filters.detach().flatten(1), expected)


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (8, 3, 1, 1)], ids=["wide", "tall"])
def test_layers_of_one_shape_do_not_mix(shape):
    together = [nn.Parameter(filters.clone()) for filters in noise(3, *shape)]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    muons = [make_muon(*together), *(make_muon(p) for p in alone)]
    for gradients in noise(2, 3, *shape):
        for one, other, gradient in zip(together, alone, gradients, strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        for muon in muons:
            muon.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(together[0], together[1])


def test_more_filters_than_inputs_are_orthogonalized_the_other_way_round():
    filters = nn.Parameter(noise(8, 3, 1, 1))
    start = filters.detach().flatten(1) * math.sqrt(8) / filters.detach().norm()
    muon = make_muon(filters)
    filters.grad = noise(8, 3, 1, 1)
    muon.step()
    expected = start - 0.05 * orthogonalized(noise(8, 3).T[None])[0].T
    torch.testing.assert_close(filters.detach().flatten(1), expected)


def test_filters_without_a_gradient_are_an_error_that_says_so():
    muon = make_muon(nn.Parameter(noise(4, 2, 3, 3)))
    with pytest.raises(NabError, match=r"filters of shape \(4, 2, 3, 3\) got no gradient"):
        muon.step()


def test_everything_else_is_updated_by_gradient_descent():
    rest, same = (nn.Parameter(noise(10, 4)) for _ in range(2))
    muon = make_muon(nn.Parameter(noise(4, 2, 3, 3)), rest)
    sgd = torch.optim.SGD([same], lr=0.2, momentum=0.9, weight_decay=0.1, nesterov=True)
    for seed in range(3):
        gradient = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed))
        rest.grad, same.grad = gradient, gradient.clone()
        for group in muon._layers:
            group[0].grad = noise(4, 2, 3, 3)
        muon.step()
        sgd.step()
    torch.testing.assert_close(rest, same)


def test_the_rate_of_filters_rises_and_falls_with_the_other():
    moved = []
    for lr in (0.2, 0.1):
        filters = nn.Parameter(noise(4, 2, 3, 3))
        muon = make_muon(filters)
        muon.param_groups[0]["lr"] = lr
        filters.grad = noise(4, 2, 3, 3)
        start = filters.detach() * 2 / filters.detach().norm()
        muon.step()
        moved.append(start - filters.detach())
    torch.testing.assert_close(moved[0], 2 * moved[1])


def test_gradients_are_forgotten():
    network = ResNet9(width=4).build(10, (3, 32, 32))
    muon = make_muon(*network.parameters())
    network(noise(2, 3, 32, 32)).sum().backward()
    muon.step()
    muon.zero_grad()
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("method", [LGA(), FCT(), VD()], ids=lambda method: type(method).__name__)
def test_networks_of_detectors_and_labelers_are_trained_as_their_sources_say(method):
    muon = Recipe(optimizer="muon", filter_lr=0.5)
    assert method.recipe(muon).effective() == method.recipe(Recipe()).effective()
