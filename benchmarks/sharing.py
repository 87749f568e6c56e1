"""Several trainings on one device: processes side by side, or a stack of networks in one process?

    python benchmarks/sharing.py [--models 2 4 8] [--width 64] [--batch-size 64] [--repeats 3]

`nab grid --jobs N` runs processes. The stack computes one step of all networks at a time, by `torch.func.vmap`; a
convolution of several networks is then one grouped convolution. One training alone is measured beside them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from common import MODEL, epoch_seconds, images_of, keep, parse, parser, show, spread, synchronize, trainer_of
from torch import Tensor
from torch.nn import functional as F

from nab.data import Dataset
from nab.seeding import derive, stream
from nab.training import Batches, Predictor, Recipe, Runtime, Trainer, fit
from nab.training.memory import keep_freed_memory

EPOCHS = 3
"""The first one is not counted, because memory is laid out and graphs are recorded in it."""

log = logging.getLogger(__name__)


def side_by_side(count: int, dataset: Dataset, trainer: Trainer) -> float:
    """Images per second of ``count`` processes together, which share the processor's threads.

    They wait for each other after the first epoch. From then until the last one ends, all of them have work.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    with spawn.Pool(count, _enter, (spawn.Barrier(count), threads)) as pool:
        spans = pool.map(_one_of_many, [(dataset, own) for own in several(trainer, count)], chunksize=1)
    starts, ends = zip(*spans, strict=True)
    return count * len(dataset) * (EPOCHS - 1) / (max(ends) - min(starts))


def several(trainer: Trainer, count: int) -> list[Trainer]:
    """Trainers that differ in their seeds."""
    return [
        Trainer(trainer.recipe, trainer.architecture, derive(trainer.seed, str(number)), trainer.device)
        for number in range(count)
    ]


def batches_of(dataset: Dataset, trainer: Trainer) -> Batches:
    """The trainer's own order and augmentation."""
    return Batches(dataset, trainer.recipe, trainer.device, stream(trainer.seed, "batches", trainer.device))


together: Barrier
"""Of the processes of `side_by_side`."""


def _enter(barrier: Barrier, threads: int) -> None:
    global together
    together = barrier
    torch.set_num_threads(threads)
    keep_freed_memory()


def _one_of_many(work: tuple[Dataset, Trainer]) -> tuple[float, float]:
    """When the second epoch began and when the last one ended; all processes of a machine have the same clock."""
    dataset, trainer = work
    moments: list[float] = []

    def observe(_: Predictor) -> dict[str, float]:
        if not moments:
            together.wait(timeout=600)
        moments.append(time.perf_counter())
        return {}

    fit(trainer.fresh(dataset, "benchmark"), batches_of(dataset, trainer), trainer.recipe, observe=observe)
    return moments[0], moments[-1]


class Stack:
    """``count`` networks that are updated together, each by samples, order and augmentation of its own."""

    def __init__(self, count: int, dataset: Dataset, trainer: Trainer) -> None:
        trainers, recipe, device = several(trainer, count), trainer.recipe, trainer.device
        networks = [
            own.fresh(dataset, "benchmark").network.to(memory_format=torch.contiguous_format) for own in trainers
        ]
        self._runtime, self._recipe = Runtime.choose(device, recipe.precision, networks[0]), recipe
        self.parameters, self.buffers = torch.func.stack_module_state(networks)
        self._template = copy.deepcopy(networks[0]).to("meta")
        self._optimizer = torch.optim.SGD(
            self.parameters.values(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._batches = [batches_of(dataset, own) for own in trainers]
        self._labels = dataset.labels.to(device)
        self._index = torch.zeros(count, recipe.batch_size, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def epoch(self) -> None:
        """One pass over the images by every network; whole batches only."""
        for indices in zip(*(batches.epoch() for batches in self._batches), strict=True):
            if len(indices[0]) < self._recipe.batch_size:
                continue
            self._index.copy_(torch.stack(indices))
            if self._graph is None:
                self.update()
            else:
                self._graph.replay()

    def update(self) -> Tensor:
        """One step; the loss that every network had before it: float32, one per network."""
        images = torch.stack([batches.augment(own) for batches, own in zip(self._batches, self._index, strict=True)])
        losses = torch.func.vmap(self._loss)(self.parameters, self.buffers, images, self._labels[self._index])
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a network's weights occur in its own loss alone
        self._optimizer.step()
        return losses.detach()

    def _loss(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> Tensor:
        with self._runtime.autocast():
            logits = torch.func.functional_call(self._template, (parameters, buffers), (images,))
        return F.cross_entropy(logits.float(), labels)

    def record(self) -> None:
        """On a GPU, make a CUDA graph of the update, as the trainer does."""
        if not self._runtime.uses_graphs:
            return
        graph = torch.cuda.CUDAGraph()
        for batches in self._batches:
            graph.register_generator_state(batches.generator)
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph):
                self.update()
        except RuntimeError as error:
            log.warning("the stack is launched kernel by kernel (%s)", error)
            return
        self._graph = graph


def stacked(count: int, dataset: Dataset, trainer: Trainer) -> float:
    """Images per second of a stack of ``count`` networks."""
    stack = Stack(count, dataset, trainer)
    ends = []
    for epoch in range(EPOCHS):
        stack.epoch()
        if epoch == 0:
            stack.record()
        synchronize(trainer.device)
        ends.append(time.perf_counter())
    return count * len(dataset) / statistics.mean(later - earlier for earlier, later in itertools.pairwise(ends))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--models", type=int, nargs="+", default=[2, 4, 8])
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--images", type=int, help="per epoch; 512 on a processor, 51200 on a GPU")
    given, device = parse(options, arguments)
    rows = [measure(count, given, device) for count in given.models]
    show("several trainings on one device, images per second of all: median (least-greatest)", rows)


def measure(count: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    wanted = given.images or (51_200 if device.type == "cuda" else 512)
    dataset = images_of("noise", max(2, round(wanted / given.batch_size)) * given.batch_size, given.seed)
    recipe = Recipe(epochs=EPOCHS, batch_size=given.batch_size)
    trainer = trainer_of(recipe, given.width, given.seed, device)
    rates: dict[str, list[float]] = {"alone": [], "processes": [], "stack": []}
    for _ in range(given.repeats):
        rates["alone"].append(len(dataset) / statistics.mean(epoch_seconds(dataset, trainer)))
        rates["processes"].append(side_by_side(count, dataset, trainer))
        rates["stack"].append(stacked(count, dataset, trainer))
    settings = {
        "model": MODEL,
        "width": given.width,
        "batch_size": given.batch_size,
        "models": count,
        "images": len(dataset),
        "repeats": given.repeats,
        "seed": given.seed,
    }
    measured = {"images_per_second": rates}
    keep(given.results, "sharing", "training", settings=settings, measured=measured, trainer=trainer)
    return {"trainings": count, "width": given.width, "batch": given.batch_size} | {
        name: spread(values) for name, values in rates.items()
    }


if __name__ == "__main__":
    main()
