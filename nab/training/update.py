"""One update of a network, as launched kernels or as a replayed CUDA graph."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nab.training.batches import Batch, BatchSource
from nab.training.muon import Muon
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime
from nab.training.step import Step

WARMUP_STEPS = 3
"""Updates before a graph is recorded. In these, cuDNN chooses its algorithms and the optimizer makes its buffers."""

log = logging.getLogger(__name__)

Optimizer = torch.optim.Optimizer | Muon


def make_optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe, runtime: Runtime) -> Optimizer:
    """The recipe's optimizer of ``parameters``."""
    options: dict[str, Any] = {
        # A recorded update reads the learning rate from memory; a launched one takes a number.
        "lr": torch.full((), recipe.lr, device=runtime.device) if runtime.uses_graphs else recipe.lr,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "nesterov": recipe.nesterov,
    }
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, **options, fused=True)
    return Muon(parameters, **options, max_lr=recipe.lr, filter_lr=recipe.filter_lr, precision=runtime.precision)


class Update:
    """Makes a batch, runs the network forwards and backwards, and updates it.

    On a GPU a small network finishes its kernels faster than Python can launch them. There, the update with a whole
    batch, augmentation included, is recorded once as a CUDA graph and then replayed with one launch.

    Args:
        predictor: whose network is trained.
        source: gives the batches.
        beside: further sources; each gives a batch to every update, however long its own epochs are.
        step: what is minimized.
        optimizers: all of them take a step in every update. The rate of each parameter group is the rate that it comes
            with, times the share that `__call__` is given.

    Attributes:
        total: float32 scalar on the device; the sum of the losses since it was last set to zero.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: BatchSource,
        beside: Sequence[BatchSource],
        step: Step,
        optimizers: Sequence[Optimizer],
    ) -> None:
        self._predictor, self._source, self._step, self._optimizers = predictor, source, step, optimizers
        self._beside = [_Endless(other) for other in beside]
        device = predictor.runtime.device
        self._rates = [(group, float(group["lr"])) for each in optimizers for group in each.param_groups]
        is_readable = all(isinstance(group["lr"], Tensor) for group, _ in self._rates)
        self._uses_graph = predictor.runtime.uses_graphs and step.is_static and is_readable and not beside
        self.total = torch.zeros((), device=device)
        self._index = torch.zeros(source.batch_size, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device) if self._uses_graph else None
        self._launched = 0

    def __call__(self, index: Tensor, share: float) -> None:
        """Update with the samples at ``index`` (int64, B, on the device) at a ``share`` of the first learning rates."""
        for group, first in self._rates:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(first * share)
            else:
                group["lr"] = first * share
        self._run(index)

    def _run(self, index: Tensor) -> None:
        is_whole = self._uses_graph and len(index) == len(self._index)
        if not is_whole:
            self._update(index)
            return
        self._index.copy_(index)
        if self._graph is not None:
            self._graph.replay()
        elif self._launched < WARMUP_STEPS:
            self._launch_aside()
        else:
            self._record()
            self._run(index)

    def _update(self, index: Tensor) -> None:
        batch = self._source.batch(index)
        loss = self._step.loss(self._predictor, batch, *(other.batch() for other in self._beside))
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        self.total += loss.detach()

    def _launch_aside(self) -> None:
        """A launched update on the stream that will record the graph; recording needs some before it."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._update(self._index)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._launched += 1

    def _record(self) -> None:
        """Record the update, which computes nothing. If recording fails, every update is launched from then on."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._source.generator)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)  # gradients are then made in the graph's own memory
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._update(self._index)
        except RuntimeError as error:
            log.warning("no CUDA graph (%s): every kernel is launched by itself, which is slower", error)
            self._uses_graph = False
            return
        self._graph = graph


class _Endless:
    """A source whose epochs follow each other without an end."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._positions = itertools.chain.from_iterable(source.epoch() for _ in itertools.count())

    def batch(self) -> Batch:
        return self._source.batch(next(self._positions))
