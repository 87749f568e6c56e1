"""Muon: momentum that is orthogonalized before it updates a layer's filters.

Source: Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: An optimizer for hidden layers in neural
networks", 2024, https://kellerjordan.github.io/posts/muon. The authors' records for CIFAR-10 also keep the norm of
filters constant (https://github.com/KellerJordan/cifar10-airbench).
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
"""The coefficients of the source's quintic. They lift small singular values fast and do not end at exactly 1."""

NEWTON_SCHULZ_STEPS = 3
"""The source's number for CIFAR-10. Five steps, its number elsewhere, come closer to 1 and cost more."""


class Muon:
    """Orthogonalized momentum for the filters of convolutions, stochastic gradient descent for everything else.

    The filters of a layer are the rows of a matrix, one row per output. The momentum of that matrix has the singular
    value decomposition ``M = U S V^T``, and the update is about ``U V^T``: the network learns rare directions about as
    fast as common ones. Where batch normalization follows the filters, as it has to, their norm does not matter. Before
    each update it is set to the root of the number of filters; the update turns them by up to about ``filter_lr``.

    Args:
        parameters: those with four dimensions are filters.
        lr: learning rate of everything else; a scalar Tensor, if a recorded update has to read it anew.
        max_lr: the highest ``lr``. The rate of filters is ``filter_lr`` times ``lr / max_lr``.
        filter_lr: the highest rate of filters.
        momentum: of filters and of everything else.
        weight_decay: of everything else.
        nesterov: whether the momentum of everything else looks ahead. The momentum of filters always does.
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
        # One product serves all layers whose matrices have the same shape.
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
        """One group, whose ``lr`` is the rate of everything but filters."""
        return self._rest.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._rest.zero_grad(set_to_none=set_to_none)
        for layer in itertools.chain.from_iterable(self._layers):
            layer.grad = None  # also if ``set_to_none`` is False

    @torch.no_grad()
    def step(self) -> None:
        self._rest.step()
        rate = self.param_groups[0]["lr"] * self._ratio
        for layers, momenta in zip(self._layers, self._momenta, strict=True):
            ahead = [self._look_ahead(*pair) for pair in zip(layers, momenta, strict=True)]
            updates = orthogonalized(torch.stack(ahead), self._precision)
            for layer, update in zip(layers, updates, strict=True):
                layer.mul_(math.sqrt(len(layer)) / layer.norm())
                layer.sub_(update.view(layer.shape) * rate)

    def _look_ahead(self, layer: nn.Parameter, momentum: Tensor) -> Tensor:
        """Adds the layer's gradient to ``momentum``; Nesterov's momentum as a matrix."""
        if layer.grad is None:
            raise NabError(f"filters of shape {tuple(layer.shape)} got no gradient; 'sgd' would leave them as they are")
        momentum.mul_(self._momentum).add_(layer.grad)
        return layer.grad.add(momentum, alpha=self._momentum).flatten(1)


def orthogonalized(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Matrices with the same singular vectors, whose singular values are near 1 unless they were tiny.

    The Newton-Schulz iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X^T`` changes singular values alone.

    Args:
        matrices: float32, N x R x C.
        precision: of the products.

    Returns:
        float32, N x R x C.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT, precision).mT
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)  # Frobenius, so no singular value is above 1
    x = (matrices / (norms + 1e-7)).to(precision)
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        products = x @ x.mT
        x = a * x + (b * products + c * products @ products) @ x
    return x.float()


def _shape(filters: Tensor) -> tuple[int, int]:
    return len(filters), filters[0].numel()
