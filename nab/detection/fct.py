"""FCT, feature consistency towards transformations (Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting
Sensitivity of Poisoned Samples", NeurIPS 2022): the sample distinguishment of D-BR and D-ST.

Turn and shift an image, and its class remains; a trigger is gone or no longer where it worked. After a short training
poisoned samples are those whose features such a change moves most.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector
from nab.errors import DataError, NabError
from nab.progress import bar
from nab.seeding import derive, stream
from nab.training import Batches, Context, Predictor, Recipe
from nab.training.trainer import fresh_predictor

CHUNK = 1000
"""Images that are turned at a time."""


@dataclasses.dataclass(frozen=True)
class FCT(Detector):
    """The score is the mean squared change of a sample's features under a random rotation and translation.

    The network is the detector's own. It learns to classify, without augmentation, and then without its last layer to
    move the centres of the classes apart; optimiser and learning rate go on from one part to the next.

    Attributes:
        epochs: of classification. Few, so that the trigger is learned and most of the task is not.
        separation_epochs: of moving the centres apart.
        batch_size: samples per step.
        lr: of SGD.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: the learning rate follows a cosine that is this much longer than both parts together.
        rotation: in degrees, in (0, 180]; each image is turned by up to so much, either way.
        translation: as a share of height and of width, in [0, 1); then shifted by up to so much, in whole pixels.
            Pixels that nothing is moved to are black.
        draws: random transformations per sample, over which the score is averaged.

    Defaults are the authors'. Theirs draw anew for the thresholds and for the samples that are compared with them; here
    a sample has one score. The normalisation is the final network's, not theirs.
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

    summary: ClassVar[str] = "features of poisoned samples change most when the image is turned and shifted"
    source: ClassVar[str] = "Chen, Wu, Wang 2022 (D-BR, D-ST)"

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        check_count("separation_epochs", self.separation_epochs)
        check_range("rotation", self.rotation, 0, 180, include_low=False)
        check_range("translation", self.translation, 0, 1, include_high=False)
        check_positive("draws", self.draws)
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the detector's network is trained, over both parts; normalisation and precision as in ``base``."""
        return dataclasses.replace(
            base.without_augmentation(),
            epochs=self.epochs + self.separation_epochs,
            batch_size=self.batch_size,
            optimizer="sgd",
            lr=self.lr,
            momentum=self.momentum,
            nesterov=False,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            schedule="cosine",
            cosine_extra_epochs=self.cosine_extra_epochs,
        )

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        if len(dataset.labels.unique()) < 2:
            raise DataError("detector 'fct' compares classes: expected samples of at least two, got one")
        predictor = self._train(dataset, context)
        generator = stream(context.seed, "fct transformations")
        scores = []
        for images in dataset.images.split(CHUNK):
            features = predictor.features(images)
            changes = [
                (features - predictor.features(self.transform(images, generator))).square().mean(1)
                for _ in range(self.draws)
            ]
            scores.append(torch.stack(changes).mean(0).cpu())
        return torch.cat(scores)

    def transform(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each image turned and then shifted at random; uint8, N x C x H x W, on the CPU."""
        sizes = torch.tensor(images.shape[2:], dtype=torch.float64)
        draws = 2 * torch.rand(3, len(images), generator=generator, dtype=torch.float64) - 1
        shifts = (self.translation * sizes[:, None] * draws[1:]).round().long()
        return turn_and_shift(images, self.rotation * draws[0], shifts)

    def _train(self, dataset: Dataset, context: Context) -> Predictor:
        """A network's own loop, since the second part has no logits; see `train` for the usual one."""
        seed, recipe = derive(context.seed, "detection (fct)"), self.recipe(context.recipe)
        predictor = fresh_predictor(dataset, recipe, context.model, context.width, context.device, seed)
        network = predictor.model
        batches = Batches(dataset.images, recipe, context.device, stream(seed, "batches", context.device))
        if not len(batches):
            raise DataError(f"detection (fct): expected at least two training images, got {len(dataset)}")
        labels = dataset.labels.to(context.device)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        network.train()
        with bar("detection (fct)", recipe.epochs) as progress:
            for epoch in range(recipe.epochs):
                optimizer.param_groups[0]["lr"] = recipe.learning_rate(epoch * len(batches), len(batches))
                for index in batches.epoch():
                    features = predictor.apply(network.features, batches.augment(index))
                    if epoch < self.epochs:
                        loss = F.cross_entropy(network.linear(features), labels[index])
                    else:
                        loss = centre_similarity(features, labels[index], dataset.num_classes)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                progress.advance(f"loss {_checked(loss.item(), epoch):.3g}")
        return predictor


def _checked(loss: float, epoch: int) -> float:
    if not abs(loss) < math.inf:
        raise NabError(f"detection (fct): the loss is {loss} after epoch {epoch + 1}; use a lower learning rate (lr)")
    return loss


def centre_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Cosine similarity between the centres of a batch's classes: the sum over all pairs of two, divided by the square
    of the number of classes that are there.

    Args:
        features: float, B x D.
        labels: int64, B.
        num_classes: K.
    """
    members = F.one_hot(labels, num_classes).T.to(features.dtype)
    # A class that is absent gets the centre zero, which is similar to none.
    directions = F.normalize(members @ features, dim=1)
    similarity = directions @ directions.T
    present = (members.sum(1) > 0).sum()
    return (similarity.sum() - similarity.diagonal().sum()) / present**2


def turn_and_shift(images: Tensor, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Images turned around their middle, cut to their frame, and then shifted.

    Every pixel is that of the source whose centre is nearest. What comes from outside is black.

    Args:
        images: N x C x H x W, of any dtype.
        degrees: float64, N; counter-clockwise.
        shifts: int64, 2 x N; pixels down, and to the right.
    """
    height, width = images.shape[2:]
    down = (torch.arange(height) - shifts[0][:, None])[:, :, None]  # in the image that is turned and not yet shifted
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
