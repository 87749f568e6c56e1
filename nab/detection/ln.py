"""LN, label noise in self-supervised features (Huang, Li, Wu, Qin, Ren, "Backdoor Defense via Decoupling the Training
Process", DBD, ICLR 2022): NAB's second detector.

Features that are learned without labels put a triggered image near the class that it shows. The label of such an image
is noise, which a linear classifier does not learn if its loss tolerates noise. Samples of highest loss are suspects.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.errors import DataError
from nab.needs import Given
from nab.seeding import derive, stream
from nab.selfsupervised import check_features, features_recipe
from nab.training import (
    Batch,
    Batches,
    BatchSource,
    Predictor,
    RawBatches,
    Recipe,
    Runtime,
    Step,
    Trainer,
    fit,
)

LOG_ZERO = -math.log(1e-4)
"""Stands for minus the logarithm of zero, in nats: the loss of Wang et al. lifts zeros in the labels to 1e-4."""


@dataclasses.dataclass(frozen=True)
class LN(Detector):
    """The score is the symmetric cross-entropy of a sample under a linear classifier of self-supervised features.

    Attributes:
        epochs: passes of the classifier.
        batch_size: samples per step.
        lr: of Adam.
        ce_weight: of the cross-entropy.
        rce_weight: of the reverse cross-entropy, ``9.21 (1 - p_y)``.
        augment: whether every epoch crops and mirrors the images anew and encodes them again, as the source does. If
            not, every image is encoded once; on the digits, this found poison no worse, in a fraction of the time.

    Defaults are the source's but for ``augment``. There are two other differences. The encoder stays in evaluation
    mode; in the source a misspelled flag leaves it in training mode, so that its batch statistics move. The images that
    are scored are not augmented; the source scores augmented ones, which makes the scores noisy.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.002
    ce_weight: float = 0.1
    rce_weight: float = 1.0
    augment: bool = False

    summary: ClassVar[str] = "label noise in self-supervised features: what a linear classifier does not believe"
    source: ClassVar[str] = "Huang et al. 2022 (DBD)"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        check_range("ce_weight", self.ce_weight, 0, math.inf, include_high=False)
        check_range("rce_weight", self.rce_weight, 0, math.inf, include_high=False)
        check_range("ce_weight + rce_weight", self.ce_weight + self.rce_weight, 0, math.inf, include_low=False)
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the classifier is trained; precision as in ``base``, and crop and flip too if images are augmented."""
        own = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "schedule": "constant"}
        shift = {"crop_padding": base.crop_padding, "flip": base.flip} if self.augment else {}
        plain = features_recipe(base).without_augmentation()
        return dataclasses.replace(plain, **own, **shift)  # type: ignore[arg-type]

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        if len(dataset.labels.unique()) < 2:
            raise DataError("LN compares classes: expected samples of at least two, got one")

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        encoder, recipe, device = given.require_encoder(), self.recipe(trainer.recipe), trainer.device
        features = check_features(encoder.features(dataset.images))
        generator = stream(trainer.seed, "detection (ln)", device)
        source: BatchSource = RawBatches(features, dataset.labels, self.batch_size, generator)
        if self.augment:
            source = EncodedBatches(dataset, recipe, generator, encoder)
        with torch.random.fork_rng(devices=[]):  # torch initializes layers from its global generator
            torch.manual_seed(derive(trainer.seed, "detection (ln)"))
            classifier = nn.Linear(features.shape[1], dataset.num_classes).to(device)
        runtime = Runtime(device, torch.float32, channels_last=False)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=self.lr, fused=True)
        fit(
            Predictor(classifier, dataset.normalization, runtime),
            source,
            recipe,
            SymmetricCrossEntropy(self),
            optimizers=[optimizer],
            title="detection (ln)",
        )
        with torch.no_grad():
            return Scored(self.losses(classifier(features), dataset.labels.to(device)).cpu())

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The symmetric cross-entropy (Wang, Ma, Chen, Luo, Yi, Bailey, ICCV 2019) of every sample.

        The reverse part is ``-sum_k p_k log(onehot_k)``. With 1e-4 in place of zeros it is ``9.21 (1 - p_y)``. The sum
        of both parts falls with p_y and depends on nothing else, so the losses have the order of ``-p_y``. The source
        also lifts every p_k to at least 1e-7. This changes the reverse part by less than 1e-6 per class, and is left
        out.

        Args:
            logits: float32, N x K.
            labels: int64, N.

        Returns:
            float32, N.
        """
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        return self.ce_weight * cross_entropy + self.rce_weight * LOG_ZERO * -torch.expm1(-cross_entropy)


class SymmetricCrossEntropy(Step):
    """The mean of `LN.losses` of a linear classifier, to which batches of features are handed as images.

    Args:
        detector: holds the weights of the two parts.
    """

    def __init__(self, detector: LN) -> None:
        self._detector = detector

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        return self._detector.losses(predictor.network(batch.images), batch.labels).mean()


class EncodedBatches(Batches):
    """Batches of the features that an encoder makes of the images, cropped and mirrored anew in every epoch.

    Args:
        dataset: the images and labels.
        recipe: batch size and augmentation.
        generator: on the device; of order and augmentation.
        encoder: makes the features; it is left in evaluation mode.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, generator: torch.Generator, encoder: Predictor) -> None:
        super().__init__(dataset, recipe, generator.device, generator)
        self._encoder = encoder
        encoder.network.eval()

    @torch.no_grad()
    def batch(self, positions: Tensor) -> Batch:
        batch = super().batch(positions)
        features = self._encoder.apply(self._encoder.network.features, batch.images)
        return dataclasses.replace(batch, images=features)
