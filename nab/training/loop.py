"""The one training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from nab.errors import DataError, NabError
from nab.progress import bar
from nab.seeding import derive
from nab.training.batches import BatchSource
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.step import CrossEntropy, Step
from nab.training.update import Optimizer, Update, make_optimizer

Observer = Callable[[Predictor], dict[str, float]]
"""Called with the network after every epoch; what it returns goes into the curve and the progress bar."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and how its training went.

    Attributes:
        predictor: the network, in evaluation mode.
        curve: one row per epoch: ``epoch`` (from 1), ``loss`` (mean of what was minimized), ``lr`` (the recipe's, at
            the last update), and what was observed.
        images_per_second: of the training's own source; the time of observing counts.
        purpose: what the training was for, the name of its stage.
    """

    predictor: Predictor
    curve: list[dict[str, float]]
    images_per_second: float
    purpose: str = ""


def fit(
    predictor: Predictor,
    source: BatchSource,
    recipe: Recipe,
    step: Step | None = None,
    *,
    beside: Sequence[BatchSource] = (),
    along: Sequence[nn.Module] = (),
    frozen: Sequence[nn.Module] = (),
    optimizers: Sequence[Optimizer] | None = None,
    observe: Observer | None = None,
    title: str = "training",
) -> Trained:
    """Train a network in place, from the weights that it has.

    Args:
        predictor: whose network is trained; it is left in evaluation mode.
        source: gives the batches; its length is that of an epoch.
        recipe: epochs, schedule and, unless ``optimizers`` are given, the optimizer. Batch size and augmentation are
            the source's.
        step: what an update minimizes; plain training by default.
        beside: further sources; the step gets a batch of each in every update. Their epochs follow each other without
            regard to those of ``source``.
        along: other modules that are trained with the network, such as a head; they are left in evaluation mode.
        frozen: parts of the network that stay in evaluation mode, so that their statistics do not move.
        optimizers: in place of the recipe's one. The schedule scales the learning rates that they come with, as it
            scales the recipe's ``lr``.
        observe: what is measured after every epoch, with the network in evaluation mode.
        title: shown on the progress bar and named in errors.

    Raises:
        DataError: a source has no batch, for it has fewer than two samples.
        NabError: the loss stopped being a finite number.
    """
    network, step = predictor.network, step or CrossEntropy(recipe.label_smoothing)
    if not all(len(each) for each in (source, *beside)):
        raise DataError(f"{title}: expected at least two training images")
    if optimizers is None:
        modules = [network, *along]
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        optimizers = [make_optimizer(parameters, recipe, predictor.runtime)]
    rates = [(group, group["lr"]) for each in optimizers for group in each.param_groups]
    update = Update(predictor, source, beside, step, optimizers)
    curve: list[dict[str, float]] = []
    images, start = 0, time.perf_counter()
    seed = derive(source.generator.initial_seed(), title)
    with _seeded(predictor.runtime.device, seed), bar(title, recipe.epochs) as progress:
        for epoch in range(recipe.epochs):
            step.begin_epoch(epoch, predictor)
            for module in (network, *along):
                module.train()
            for module in frozen:
                module.eval()
            update.total.zero_()
            for position, index in enumerate(source.epoch()):
                lr = recipe.learning_rate(epoch * len(source) + position, len(source))
                update(index, lr / recipe.lr)
                images += len(index)
            row = _row(epoch, update.total.item() / len(source), lr, title)
            if observe:
                row |= observe(predictor)
            curve.append(row)
            progress.advance(_note(row))
    for group, first in rates:  # as they came, for a training that goes on with them
        if not isinstance(first, Tensor):
            group["lr"] = first
    for module in (network, *along):
        module.eval()
    return Trained(predictor, curve, images / (time.perf_counter() - start))


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """A block in which layers that draw from torch's global generator, such as dropout, draw what follows from the
    seed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _row(epoch: int, loss: float, lr: float, title: str) -> dict[str, float]:
    if not abs(loss) < float("inf"):
        raise NabError(f"{title}: the loss is {loss} after epoch {epoch + 1}; use a lower learning rate (lr)")
    return {"epoch": epoch + 1, "loss": loss, "lr": lr}


def _note(row: dict[str, float]) -> str:
    short = {"loss": "loss", "clean_accuracy": "ACC", "attack_success_rate": "ASR"}
    return " ".join(f"{short[key]} {value:.3g}" for key, value in row.items() if key in short)
