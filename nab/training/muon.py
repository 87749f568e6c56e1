"""Muon: momentum that is orthogonalised before it updates a layer's filters.

Source: Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: An optimizer for hidden layers in neural
networks", 2024, https://kellerjordan.github.io/posts/muon. Filters of constant norm are as in the authors' records for
CIFAR-10 (https://github.com/KellerJordan/cifar10-airbench).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nab.errors import NabError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the source's quintic: chosen to lift small singular values fast, not to end at exactly 1."""

NEWTON_SCHULZ_STEPS = 3
"""As the source has it for CIFAR-10; five, its number elsewhere, come closer to 1 and cost more."""


class Muon:
    """Orthogonalised momentum for the filters of convolutions, stochastic gradient descent for everything else.

    A layer's filters are the rows of a matrix, as many as outputs. Of its momentum ``M = U S V^T`` (singular values)
    nearly ``U V^T`` is taken, so that rare directions are learned about as fast as common ones. Filters that batch
    normalisation follows may have any norm; before each update theirs is set to the root of their number, so that the
    update turns them by up to about ``filter_lr``.

    Args:
        parameters: those with four dimensions are filters.
        lr: of everything else, now; a scalar Tensor if it is to be read anew by a recorded update.
        max_lr: what ``lr`` is at most; filters have the same share of ``filter_lr`` as ``lr`` is of this.
        filter_lr: the highest rate of filters.
        momentum: of both.
        weight_decay: of everything else.
        nesterov: whether the momentum of everything else looks ahead; that of filters always does.
        precision: of the matrix products, bfloat16 or float32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float | Tensor,
        max_lr: float,
        filter_lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
        precision: torch.dtype,
    ) -> None:
        everything = list(parameters)
        # Layers whose matrices have the same shape are made orthogonal together.
        filters = sorted((p for p in everything if p.ndim == 4), key=_shape)
        self._layers = [list(group) for _, group in itertools.groupby(filters, _shape)]
        self._momenta = [[torch.zeros_like(p) for p in layers] for layers in self._layers]
        self._momentum, self._precision = momentum, precision
        self._ratio = filter_lr / max_lr
        self._rest = torch.optim.SGD(
            [p for p in everything if p.ndim != 4],
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            fused=True,
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One, whose ``lr`` is that of everything but filters."""
        return self._rest.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._rest.zero_grad(set_to_none=set_to_none)
        for layer in itertools.chain.from_iterable(self._layers):
            layer.grad = None  # whatever is asked for: the buffers would be of no use

    @torch.no_grad()
    def step(self) -> None:
        self._rest.step()
        rate = self.param_groups[0]["lr"] * self._ratio
        for layers, momenta in zip(self._layers, self._momenta, strict=True):
            ahead = [self._look_ahead(*pair) for pair in zip(layers, momenta, strict=True)]
            updates = orthogonalised(torch.stack(ahead), self._precision)
            for layer, update in zip(layers, updates, strict=True):
                layer.mul_(math.sqrt(len(layer)) / layer.norm())
                layer.sub_(update.view(layer.shape) * rate)

    def _look_ahead(self, layer: nn.Parameter, momentum: Tensor) -> Tensor:
        """Nesterov's momentum as a matrix, after the layer's gradient was added to ``momentum``."""
        if layer.grad is None:
            raise NabError(f"filters of shape {tuple(layer.shape)} got no gradient; 'sgd' would leave them as they are")
        momentum.mul_(self._momentum).add_(layer.grad)
        return layer.grad.add(momentum, alpha=self._momentum).flatten(1)


def orthogonalised(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Matrices with the same singular vectors, and singular values near 1 in place of all that are not tiny.

    The Newton-Schulz iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X^T`` acts on singular values alone.

    Args:
        matrices: float32, N x R x C.
        precision: of the products.

    Returns:
        float32, N x R x C.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT, precision).mT
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)  # Frobenius, so no singular value is above 1
    x = (matrices / (norms + 1e-7)).to(precision)
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        products = x @ x.mT
        x = a * x + (b * products + c * products @ products) @ x
    return x.float()


def _shape(filters: Tensor) -> tuple[int, int]:
    return len(filters), filters[0].numel()
