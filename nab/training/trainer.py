"""The one training loop. Methods differ from plain training by a `Hook`, not by a loop of their own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.data import Dataset
from nab.errors import DataError, NabError
from nab.models import build_model
from nab.progress import bar
from nab.seeding import stream
from nab.training.batches import Batches
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime


class Hook:
    """What a method may change in every batch; this one changes nothing."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of every epoch, counted from 0."""

    def images(self, images: Tensor, index: Tensor) -> Tensor:
        """The batch that the network sees.

        Args:
            images: float32, B x C x H x W, augmented and normalised.
            index: int64, B; the samples' positions in the training set.
        """
        return images

    def loss(self, losses: Tensor, index: Tensor) -> Tensor:
        """The scalar that is minimised, from the cross-entropy of every sample (float32, B)."""
        return losses.mean()


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
    title: str = "training",
) -> Trained:
    """Train a fresh network.

    Args:
        dataset: images and the labels to learn.
        recipe: how.
        model: a key of `nab.models.MODELS`.
        width: channels of its first stage.
        seed: of weights, order and augmentation; each has a stream of its own.
        device: where.
        hook: what differs from plain training.
        monitor: measured after every epoch.
        title: shown on the progress bar.

    Raises:
        ConfigError: an unknown model, or a width below 1.
        DataError: fewer than two images.
        NabError: the loss stopped being a finite number.
    """
    hook = hook or Hook()
    device = torch.device(device)
    network = build_model(
        model, num_classes=dataset.num_classes, channels=dataset.images.shape[1], width=width, seed=seed
    )
    runtime = Runtime.choose(device, recipe.precision, width)
    network = runtime.place(network)  # type: ignore[assignment]
    predictor = Predictor(network, recipe, runtime)
    batches = Batches(dataset.images, recipe, device, stream(seed, "batches", device))
    if not len(batches):
        raise DataError(f"{title}: expected at least two training images, got {len(dataset)}")
    labels = dataset.labels.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=True,
    )
    curve: list[dict[str, float]] = []
    start = time.perf_counter()
    with bar(title, recipe.epochs) as progress:
        for epoch in range(recipe.epochs):
            network.train()
            hook.begin_epoch(epoch)
            total = torch.zeros((), device=device)
            for position, (images, index) in enumerate(batches.epoch()):
                lr = recipe.learning_rate(epoch * len(batches) + position, len(batches))
                optimizer.param_groups[0]["lr"] = lr
                inputs = runtime.lay_out(hook.images(images, index))
                with runtime.autocast():
                    logits = network(inputs)
                losses = F.cross_entropy(
                    logits.float(), labels[index], reduction="none", label_smoothing=recipe.label_smoothing
                )
                optimizer.zero_grad(set_to_none=True)
                hook.loss(losses, index).backward()
                optimizer.step()
                total += losses.detach().mean()
            row = _row(epoch, total.item() / len(batches), lr, title)
            if monitor:
                row |= monitor(predictor)
            curve.append(row)
            progress.advance(_note(row))
    network.eval()
    return Trained(predictor, curve, recipe.epochs * len(dataset) / (time.perf_counter() - start))


def _row(epoch: int, loss: float, lr: float, title: str) -> dict[str, float]:
    if not abs(loss) < float("inf"):
        raise NabError(f"{title}: the loss is {loss} after epoch {epoch + 1}; use a lower learning rate (lr)")
    return {"epoch": epoch + 1, "loss": loss, "lr": lr}


def _note(row: dict[str, float]) -> str:
    short = {"loss": "loss", "clean_accuracy": "ACC", "attack_success_rate": "ASR"}
    return " ".join(f"{short[key]} {value:.3g}" for key, value in row.items() if key in short)
