"""One update of a network, as launched kernels or as a replayed CUDA graph."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.training.batches import Batches
from nab.training.hook import Hook
from nab.training.muon import Muon
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime

WARMUP_STEPS = 3
"""Updates before a graph is recorded: until then cuDNN chooses its algorithms and the optimizer makes its buffers."""

log = logging.getLogger(__name__)


class Step:
    """Makes a batch, runs the network forwards and backwards, and updates it.

    On a GPU a small network finishes its kernels faster than Python can launch them. There, whole batches are recorded
    once as a CUDA graph, augmentation and update included, and replayed with one launch.

    Attributes:
        total: scalar on the device; the mean losses of the batches since it was last set to zero.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, runtime: Runtime, batches: Batches, labels: Tensor, hook: Hook
    ) -> None:
        self._network, self._recipe, self._runtime = network, recipe, runtime
        self._batches, self._labels, self._hook = batches, labels, hook
        device = runtime.device
        self._uses_graph = runtime.uses_graphs and hook.is_static
        # A replayed update reads the learning rate from memory; a launched one takes a number.
        self._lr = torch.full((), recipe.lr, device=device) if self._uses_graph else None
        self._optimizer = self._make_optimizer()
        self.total = torch.zeros((), device=device)
        self._index = torch.zeros(recipe.batch_size, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device) if self._uses_graph else None
        self._launched = 0

    def __call__(self, index: Tensor, lr: float) -> None:
        """Update with the samples of ``index`` (int64, B, on the device)."""
        if self._lr is None:
            self._optimizer.param_groups[0]["lr"] = lr
        else:
            self._lr.fill_(lr)
        is_whole = self._uses_graph and len(index) == self._recipe.batch_size
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
            self(index, lr)

    def _make_optimizer(self) -> torch.optim.SGD | Muon:
        recipe, parameters = self._recipe, self._network.parameters()
        options: dict[str, Any] = {
            "lr": recipe.lr if self._lr is None else self._lr,
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
            "nesterov": recipe.nesterov,
        }
        if recipe.optimizer == "sgd":
            return torch.optim.SGD(parameters, **options, fused=True)
        precision = self._runtime.precision
        return Muon(parameters, **options, max_lr=recipe.lr, filter_lr=recipe.filter_lr, precision=precision)

    def _update(self, index: Tensor) -> None:
        images = self._batches.augment(index)
        inputs = self._runtime.lay_out(self._hook.images(images, index))
        with self._runtime.autocast():
            logits = self._network(inputs)
        losses = F.cross_entropy(
            logits.float(), self._labels[index], reduction="none", label_smoothing=self._recipe.label_smoothing
        )
        self._optimizer.zero_grad(set_to_none=True)
        self._hook.loss(losses, logits, index).backward()
        self._optimizer.step()
        self.total += losses.detach().mean()

    def _launch_aside(self) -> None:
        """A launched update on the stream on which the graph will be recorded, as recording asks for."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._update(self._index)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._launched += 1

    def _record(self) -> None:
        """Record the update; recording computes nothing. Where it fails, every update is launched."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._batches.generator)
        self._optimizer.zero_grad(set_to_none=True)  # gradients are then made in the graph's own memory
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._update(self._index)
        except RuntimeError as error:
            log.warning("no CUDA graph (%s): every kernel is launched by itself, which is slower", error)
            self._uses_graph = False
            return
        self._graph = graph
