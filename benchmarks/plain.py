"""The usual way: a map-style dataset of PIL images, torchvision's transforms, a DataLoader, float32.

What most implementations of training on CIFAR-10 look like, kept as short as they are. It is what the benchmarks
compare with, and no part of the library.
"""

from __future__ import annotations

import time

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from nab.data import Dataset
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


class PlainTraining:
    """A network with a loader and an optimizer, trained epoch by epoch."""

    def __init__(
        self, network: nn.Module, loader: DataLoader[tuple[Tensor, int]], recipe: Recipe, device: torch.device
    ) -> None:
        self.network, self.loader, self.device = network.to(device), loader, device
        self.optimizer = torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def epoch(self) -> float:
        """Seconds of one pass; the last loss is asked for, so that a GPU has finished."""
        self.network.train()
        start = time.perf_counter()
        for images, labels in self.loader:
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            loss = F.cross_entropy(self.network(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        loss.item()
        return time.perf_counter() - start
