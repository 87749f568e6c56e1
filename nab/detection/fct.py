"""FCT, feature consistency towards transformations (Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting
Sensitivity of Poisoned Samples", NeurIPS 2022): the sample distinguishment of D-BR and D-ST.

A rotated and shifted image still shows its class, but its trigger is gone or not where it worked. After a short
training, such a change moves the features of poisoned samples most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.errors import DataError
from nab.needs import Given
from nab.seeding import stream
from nab.training import Batch, Predictor, Recipe, Step, Trainer

CHUNK = 1000
"""Images that are rotated at a time."""


@dataclasses.dataclass(frozen=True)
class FCT(Detector):
    """The score is the mean squared change of a sample's features under a random rotation and translation.

    The detector trains a network of its own, without augmentation. The network first learns to classify. Then its last
    layer is left out, and the rest learns to move the centers of the classes apart. Optimizer and learning rate go on
    from the first part to the second.

    Attributes:
        epochs: of the first part. They are few, so that the trigger is learned and most of the task is not.
        separation_epochs: of the second part.
        batch_size: samples per step.
        lr: of SGD.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: the learning rate follows a cosine that is this much longer than both parts together.
        rotation: the largest angle by which an image is rotated, to either side, in degrees, in (0, 180].
        translation: the largest distance by which the rotated image is then shifted, in whole pixels, as a share of
            height and of width, in [0, 1). Pixels to which nothing is moved are black.
        draws: random transformations of every sample, over which the score is averaged.

    Defaults are the authors'. There are two differences. Their code draws other transformations for its thresholds than
    for the samples that it compares with them; here a sample has one score. The normalization is the dataset's.
    """

    epochs: int = 2
    separation_epochs: int = 10
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    cosine_extra_epochs: int = 88
    rotation: float = 180.0
    translation: float = 0.2
    draws: int = 1

    summary: ClassVar[str] = "features of poisoned samples change most when the image is rotated and shifted"
    source: ClassVar[str] = "Chen, Wu, Wang 2022 (D-BR, D-ST)"

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        check_count("separation_epochs", self.separation_epochs)
        check_range("rotation", self.rotation, 0, 180, include_low=False)
        check_range("translation", self.translation, 0, 1, include_high=False)
        check_positive("draws", self.draws)
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's network is trained, over both parts; precision as in ``base``."""
        return base.without_augmentation().plain_sgd(
            epochs=self.epochs + self.separation_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="cosine",
            cosine_extra_epochs=self.cosine_extra_epochs,
        )

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        if len(dataset.labels.unique()) < 2:
            raise DataError("FCT compares classes: expected samples of at least two, got one")

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        recipe, step = self.recipe(trainer.recipe), Separation(self.epochs, dataset.num_classes)
        predictor = trainer.train(dataset, "detection (fct)", recipe=recipe, step=step).predictor
        generator = stream(trainer.seed, "fct transformations")
        scores = []
        for images in dataset.images.split(CHUNK):
            features = predictor.features(images)
            changes = [
                (features - predictor.features(self.transform(images, generator))).square().mean(1)
                for _ in range(self.draws)
            ]
            scores.append(torch.stack(changes).mean(0).cpu())
        return Scored(torch.cat(scores))

    def transform(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each image rotated and then shifted at random; uint8, N x C x H x W, on the CPU."""
        sizes = torch.tensor(images.shape[2:], dtype=torch.float64)
        draws = 2 * torch.rand(3, len(images), generator=generator, dtype=torch.float64) - 1
        shifts = (self.translation * sizes[:, None] * draws[1:]).round().long()
        return rotate_and_shift(images, self.rotation * draws[0], shifts)


class Separation(Step):
    """Classification in the first epochs; in the others the similarity of the classes' centers, see
    `center_similarity`.

    Args:
        epochs: of classification.
        num_classes: K.
    """

    def __init__(self, epochs: int, num_classes: int) -> None:
        self._epochs, self._num_classes = epochs, num_classes
        self._epoch = 0

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        return {"epochs": self._epochs, "num_classes": self._num_classes}

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:
        self._epoch = epoch

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        network = predictor.network
        features = predictor.apply(network.features, batch.images)
        if self._epoch < self._epochs:
            return F.cross_entropy(network.classifier(features), batch.labels)
        return center_similarity(features, batch.labels, self._num_classes)


def center_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The cosine similarity of the centers of a batch's classes: the sum over all ordered pairs of two, divided by the
    square of the number of classes in the batch.

    Args:
        features: float, B x D.
        labels: int64, B.
        num_classes: K.
    """
    members = F.one_hot(labels, num_classes).T.to(features.dtype)
    # A class that is absent gets the center zero, which is similar to none.
    directions = F.normalize(members @ features, dim=1)
    similarity = directions @ directions.T
    present = (members.sum(1) > 0).sum()
    return (similarity.sum() - similarity.diagonal().sum()) / present**2


def rotate_and_shift(images: Tensor, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Images rotated around their middle, cut to their frame, and then shifted.

    Every pixel gets the value of the source's nearest pixel, and is black if that lies outside of the frame.

    Args:
        images: N x C x H x W, of any dtype.
        degrees: float64, N; counter-clockwise.
        shifts: int64, 2 x N; pixels down, and to the right.
    """
    height, width = images.shape[2:]
    down = (torch.arange(height) - shifts[0][:, None])[:, :, None]  # in the image that is rotated and not yet shifted
    right = (torch.arange(width) - shifts[1][:, None])[:, None, :]
    is_shown = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    cos, sin = (part(degrees.deg2rad())[:, None, None] for part in (torch.cos, torch.sin))
    y, x = down - (height - 1) / 2, right - (width - 1) / 2
    rows = (x * sin + y * cos + (height - 1) / 2).round().long()
    columns = (x * cos - y * sin + (width - 1) / 2).round().long()
    is_shown &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    source = (rows * width + columns).where(is_shown, 0).flatten(1)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return moved * is_shown[:, None]
