"""The one training loop. Methods differ from plain training by a `Hook`, not by a loop of their own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from nab.data import Dataset
from nab.errors import DataError, NabError
from nab.models import build_model
from nab.progress import bar
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training.batches import Batches
from nab.training.hook import Hook, PlainHook
from nab.training.memory import keep_freed_memory
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime
from nab.training.step import Step

Monitor = Callable[[Predictor], dict[str, float]]
"""Called after every epoch with the network as it is; what it returns goes into the curve and the progress bar."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, and one row per epoch: ``epoch`` (from 1), ``loss``, ``lr``, and what the monitor returned.

    ``images_per_second`` includes the time that the monitor takes.
    """

    predictor: Predictor
    curve: list[dict[str, float]]
    images_per_second: float


def train(
    dataset: Dataset,
    recipe: Recipe,
    *,
    model: str = "resnet18",
    width: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    hook: Hook | None = None,
    monitor: Monitor | None = None,
    stamp: Stamp | None = None,
    title: str = "training",
) -> Trained:
    """Train a fresh network.

    On a processor, the process then keeps memory that it frees: see `nab.training.memory.keep_freed_memory`.

    Args:
        dataset: images and the labels to learn.
        recipe: how.
        model: a key of `nab.models.MODELS`.
        width: channels of its first stage.
        seed: of weights, order and augmentation; each has a stream of its own.
        device: where.
        hook: what differs from plain training.
        monitor: measured after every epoch.
        stamp: what the predictor, also the monitored one, writes on every input. Training does not: that is a hook's.
        title: shown on the progress bar.

    Raises:
        ConfigError: an unknown model, or a width below 1.
        DataError: fewer than two images.
        NabError: the loss stopped being a finite number.
    """
    hook = hook or PlainHook()
    device = torch.device(device)
    predictor = fresh_predictor(dataset, recipe, model, width, device, seed=seed).with_stamp(stamp)
    network = predictor.model
    batches = Batches(dataset.images, recipe, device, stream(seed, "batches", device))
    if not len(batches):
        raise DataError(f"{title}: expected at least two training images, got {len(dataset)}")
    step = Step(network, recipe, predictor.runtime, batches, dataset.labels.to(device), hook)
    curve: list[dict[str, float]] = []
    start = time.perf_counter()
    with bar(title, recipe.epochs) as progress:
        for epoch in range(recipe.epochs):
            network.train()
            hook.begin_epoch(epoch)
            step.total.zero_()
            for position, index in enumerate(batches.epoch()):
                lr = recipe.learning_rate(epoch * len(batches) + position, len(batches))
                step(index, lr)
            row = _row(epoch, step.total.item() / len(batches), lr, title)
            if monitor:
                row |= monitor(predictor)
            curve.append(row)
            progress.advance(_note(row))
    network.eval()
    return Trained(predictor, curve, recipe.epochs * len(dataset) / (time.perf_counter() - start))


def fresh_predictor(
    dataset: Dataset, recipe: Recipe, model: str, width: int, device: torch.device, seed: int = 0
) -> Predictor:
    """An untrained network for images and classes like those of ``dataset``, ready to be trained or filled."""
    if device.type == "cpu":
        keep_freed_memory()
    runtime = Runtime.choose(device, recipe.precision, width)
    network = build_model(
        model, num_classes=dataset.num_classes, channels=dataset.images.shape[1], width=width, seed=seed
    )
    return Predictor(runtime.place(network), recipe, runtime)


def _row(epoch: int, loss: float, lr: float, title: str) -> dict[str, float]:
    if not abs(loss) < float("inf"):
        raise NabError(f"{title}: the loss is {loss} after epoch {epoch + 1}; use a lower learning rate (lr)")
    return {"epoch": epoch + 1, "loss": loss, "lr": lr}


def _note(row: dict[str, float]) -> str:
    short = {"loss": "loss", "clean_accuracy": "ACC", "attack_success_rate": "ASR"}
    return " ".join(f"{short[key]} {value:.3g}" for key, value in row.items() if key in short)
