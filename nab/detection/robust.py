"""Robust covariance: the filter for normal data of Diakonikolas, Kamath, Kane, Li, Moitra, Stewart ("Being Robust (in
High Dimensions) Can Be Practical", ICML 2017), in the form in which SPECTRE uses it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from nab.detection.latent import inverse_root

Tail = Literal["remaining", "passed"]
"""What the filter compares with the tail of normal data: the share of samples that lie beyond a value
(``"remaining"``), or the share that lies below it (``"passed"``)."""

CONSTANT = 10
"""A factor of the bounds on a sample's norm and on the fourth moment. The paper does not give its value."""

CONFIDENCE = 0.1
"""The paper's tau, the probability with which the filter may fail."""

SHIFT = 3
"""How far below the value that triggers the filter the removed samples begin."""

ROUNDS = 20
"""Rounds in which as few samples are removed as the tail test names, and rounds in which more are; see
`filter_covariance`."""


def filter_covariance(values: Tensor, share: float, limit: int, *, tail: Tail = "remaining") -> Tensor:
    """The samples whose covariance is that of the uncorrupted ones.

    Normal data has quadratic forms of a known variance. While some quadratic form varies more than that, the samples
    that lie far out in it are removed.

    The first 20 rounds remove what the tail test names, as the authors' code does. That code goes on until no quadratic
    form varies too much, which may take hundreds of rounds. Here every later round removes at least a twentieth of the
    limit, so that there are 40 rounds at most.

    Args:
        values: float64, n x k, centered.
        share: of corrupted samples, in (0, 1).
        limit: how many samples may be removed, less than n.
        tail: see `Tail`.

    Returns:
        bool, n: the samples that are kept.
    """
    kept = torch.arange(len(values))
    bound = 1 + CONSTANT * share * math.log(1 / share) ** 2
    left, form, rounds = limit, None, 0
    while left > 0:
        whitened = values[kept] @ inverse_root(values[kept].T @ values[kept] / len(kept))
        norms = whitened.square().sum(1)
        is_far = norms >= CONSTANT * values.shape[1] * math.log(len(kept) / CONFIDENCE)
        suspicion, count = norms, int(is_far.sum())
        if count == 0:
            moment, form = top_fourth_moment(whitened, form)
            if moment <= bound:
                break
            forms = ((whitened @ form) * whitened).sum(1) / math.sqrt(2)
            suspicion = (forms - forms.median()).abs()
            count = _removed(suspicion, share, tail)
            if count == 0:
                break
            if rounds >= ROUNDS:
                count = max(count, math.ceil(limit / ROUNDS))
            rounds += 1
        count = min(count, left)
        kept = kept[suspicion.argsort(stable=True)[: len(kept) - count].sort().values]
        left -= count
    is_kept = torch.zeros(len(values), dtype=torch.bool)
    is_kept[kept] = True
    return is_kept


def _removed(suspicion: Tensor, share: float, tail: Tail) -> int:
    """How many samples lie beyond the first value beyond which normal data would have fewer samples."""
    ordered = suspicion.sort().values
    beyond = ordered - SHIFT
    expected = 3 * share / (beyond * beyond.log()).square()
    expected = torch.where(beyond <= CONSTANT * math.log(1 / share), 1.0, expected)
    place = torch.arange(len(ordered), dtype=torch.float64)
    mass = 1 - place / len(ordered) if tail == "remaining" else (place + 1) / len(ordered)
    triggers = ((beyond > 0) & (mass >= expected)).nonzero().squeeze(1)
    return int((ordered > beyond[triggers[0]]).sum()) if len(triggers) else 0


def top_fourth_moment(whitened: Tensor, start: Tensor | None = None) -> tuple[float, Tensor]:
    """The quadratic form of norm 1 that varies most over samples of covariance one. On normal data its variance is 2.

    It is the first eigenvector of the k^2 x k^2 matrix of fourth moments, minus the identity's. Power iteration needs
    only the products of that matrix, which are taken in float32: this is twice as fast as float64, and exact enough.

    Args:
        whitened: float64, n x k.
        start: a guess, for example the last answer; float64, k x k.

    Returns:
        the variance, to about a percent, and the form, float64, k x k, symmetric, of Frobenius norm 1.
    """
    whitened = whitened.float()
    if start is None:  # the form of the sample that lies furthest out
        extreme = whitened[whitened.square().sum(1).argmax()]
        start = torch.outer(extreme, extreme)
    form, variance = (start / start.norm()).float(), 0.0
    for _ in range(100):
        answers = ((whitened @ form) * whitened).sum(1)
        product = (whitened * (answers / len(answers))[:, None]).T @ whitened
        product -= form.trace() * torch.eye(len(form), dtype=form.dtype)
        last, variance = variance, float((form * product).sum())
        norm = product.norm()
        if norm < 1e-6:
            break
        form = (product + product.T) / (2 * norm)
        if abs(variance - last) < 1e-3 * variance:
            break
    return variance, form.double()
