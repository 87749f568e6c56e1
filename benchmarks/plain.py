"""The usual way: a map-style dataset of PIL images, torchvision's transforms, a DataLoader, float32.

Most implementations of training on CIFAR-10 look like this one. It is there for comparison alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from nab.data import Dataset
from nab.models import Architecture
from nab.training import Recipe


class Cutout:
    """A square of zeros around a random center, clipped at the border."""

    def __init__(self, half: int) -> None:
        self.half = half

    def __call__(self, image: Tensor) -> Tensor:
        y, x = (int(torch.randint(side, ())) for side in image.shape[1:])
        image[:, max(y - self.half, 0) : y + self.half, max(x - self.half, 0) : x + self.half] = 0.0
        return image


class PilDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Arrays in memory, of which each becomes a PIL image when it is asked for, as in torchvision's CIFAR-10."""

    def __init__(self, dataset: Dataset, transform: transforms.Compose) -> None:
        self.pixels = dataset.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = dataset.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain_loader(
    dataset: Dataset, recipe: Recipe, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """The recipe's augmentation, image by image. Workers stay alive from epoch to epoch, which favors this side."""
    steps = [
        transforms.RandomCrop(dataset.images.shape[2], padding=recipe.crop_padding),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(dataset.normalization.mean, dataset.normalization.std),
    ]
    if recipe.cutout:
        steps.append(Cutout(recipe.cutout // 2))
    return DataLoader(
        PilDataset(dataset, transforms.Compose(steps)),
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


Turn = Callable[[], float]
"""One pass over the data; its seconds."""


def plain_training(
    architecture: Architecture, seed: int, dataset: Dataset, recipe: Recipe, workers: int, device: torch.device
) -> Turn:
    """A network, a loader and an optimizer, trained by a pass per turn."""
    network = architecture.build(dataset.num_classes, (3, *dataset.images.shape[2:]), seed).to(device)
    loader = plain_loader(dataset, recipe, workers, device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )

    def turn() -> float:
        network.train()
        start = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits until a GPU has finished
        return time.perf_counter() - start

    return turn


def plain_loading(dataset: Dataset, recipe: Recipe, workers: int, device: torch.device) -> Turn:
    """The loader alone; its batches are brought to the device."""
    loader = plain_loader(dataset, recipe, workers, device)

    def turn() -> float:
        start = time.perf_counter()
        for images, _ in loader:
            images = images.to(device, non_blocking=True)
        images.flatten()[0].item()
        return time.perf_counter() - start

    return turn


class Apart(contextlib.AbstractContextManager["Apart"]):
    """What ``make`` gives, in a process of its own, which has as many threads and waits between its turns."""

    def __init__(self, make: Callable[[], Turn]) -> None:
        # Not a `multiprocessing.Pool`: its processes must not start the loader's workers.
        self._process = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make, torch.get_num_threads())
        )

    def turn(self) -> float:
        """Two passes over there; the seconds of the second one, since the process has waited before the first."""
        return [self._process.submit(_turn).result() for _ in range(2)][1]

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


_made: Turn
"""What the process of an `Apart` was started for."""


def _begin(make: Callable[[], Turn], threads: int) -> None:
    global _made
    torch.set_num_threads(threads)
    _made = make()


def _turn() -> float:
    return _made()
