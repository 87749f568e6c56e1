"""The usual way: a map-style dataset of PIL images, torchvision's transforms, a DataLoader, float32.

What most implementations of training on CIFAR-10 look like, kept as short as they are. It is what the benchmarks
compare with, and no part of the library.
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
from nab.models import build_model
from nab.training import Recipe


class Cutout:
    """A square of zeros around a random centre, clipped at the border."""

    def __init__(self, half: int) -> None:
        self.half = half

    def __call__(self, image: Tensor) -> Tensor:
        y, x = (int(torch.randint(side, ())) for side in image.shape[1:])
        image[:, max(y - self.half, 0) : y + self.half, max(x - self.half, 0) : x + self.half] = 0.0
        return image


class PilDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Arrays in memory that become a PIL image when asked for, as torchvision's own CIFAR-10 has it."""

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
    """The recipe's augmentation, image by image. Workers stay alive from epoch to epoch, which is to its advantage."""
    steps = [
        transforms.RandomCrop(dataset.images.shape[2], padding=recipe.crop_padding),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(recipe.mean, recipe.std),
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
    model: str, width: int, seed: int, dataset: Dataset, recipe: Recipe, workers: int, device: torch.device
) -> Turn:
    """A network, a loader and an optimizer, trained by a pass per turn."""
    network = build_model(model, num_classes=dataset.num_classes, width=width, seed=seed).to(device)
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
        loss.item()  # asked for, so that a GPU has finished
        return time.perf_counter() - start

    return turn


def plain_loading(dataset: Dataset, recipe: Recipe, workers: int, device: torch.device) -> Turn:
    """The loader alone, its batches brought to the device."""
    loader = plain_loader(dataset, recipe, workers, device)

    def turn() -> float:
        start = time.perf_counter()
        for images, _ in loader:
            images = images.to(device, non_blocking=True)
        images.flatten()[0].item()
        return time.perf_counter() - start

    return turn


class Apart(contextlib.AbstractContextManager["Apart"]):
    """What ``make`` gives, in a process of its own with as many threads, which waits between its turns."""

    def __init__(self, make: Callable[[], Turn]) -> None:
        # Not a `multiprocessing.Pool`: its processes must not start the loader's workers.
        self._process = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make, torch.get_num_threads())
        )

    def turn(self) -> float:
        """Seconds, taken over there; of the second of two passes, as it has waited for long."""
        return [self._process.submit(_turn).result() for _ in range(2)][1]

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


def _begin(make: Callable[[], Turn], threads: int) -> None:
    global _made
    torch.set_num_threads(threads)
    _made = make()


def _turn() -> float:
    return _made()
