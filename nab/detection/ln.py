"""LN, label noise in self-supervised features (Huang, Li, Wu, Qin, Ren, "Backdoor Defense via Decoupling the Training
Process", DBD, ICLR 2022): NAB's second detector.

Features that were learned without labels put a triggered image near the class that it shows. Its label is then noise,
and a linear classifier with a loss that bears noise does not learn it. The samples of highest loss are suspects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.checks import check_range
from nab.data import Dataset
from nab.detection.base import Detector
from nab.errors import DataError, NabError
from nab.progress import bar
from nab.seeding import derive, stream
from nab.selfsupervised import check_features, features_recipe, train_encoder
from nab.training import Batches, Context, Predictor, Recipe

LOG_ZERO = -math.log(1e-4)
"""What stands for minus the logarithm of zero, in nats: the loss of Wang et al. cuts the labels off at 1e-4."""


@dataclasses.dataclass(frozen=True)
class LN(Detector):
    """The score is the symmetric cross-entropy of a sample under a linear classifier of self-supervised features.

    Attributes:
        epochs: passes of the classifier.
        batch_size: samples per step.
        lr: of Adam.
        ce_weight: of the cross-entropy.
        rce_weight: of the reverse cross-entropy, ``9.21 (1 - p_y)``.
        augment: whether every pass sees the images cropped and mirrored anew, as the source does, which sends all
            images through the encoder once per epoch. False takes each image's features once: on the digits this found
            poison no worse, in a fraction of the time.

    Defaults are the source's but for ``augment``. The encoder stays as it is and in evaluation mode; in the source a
    misspelt flag leaves it in training mode, so that its batch statistics move. Scores belong to the images as they
    are; the source records them on augmented ones, which makes them noisy.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.002
    ce_weight: float = 0.1
    rce_weight: float = 1.0
    augment: bool = False

    summary: ClassVar[str] = "label noise in self-supervised features: what a linear classifier does not believe"
    source: ClassVar[str] = "Huang et al. 2022 (DBD)"
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("ce_weight", self.ce_weight, 0, math.inf, include_high=False)
        check_range("rce_weight", self.rce_weight, 0, math.inf, include_high=False)
        check_range("ce_weight + rce_weight", self.ce_weight + self.rce_weight, 0, math.inf, include_low=False)
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """Batches of the classifier; normalisation and precision as in ``base``, and its crop and flip if wanted."""
        own = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "schedule": "constant"}
        shift = {"crop_padding": base.crop_padding, "flip": base.flip} if self.augment else {}
        plain = features_recipe(base).without_augmentation()
        return dataclasses.replace(plain, **own, **shift)  # type: ignore[arg-type]

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        if len(dataset.labels.unique()) < 2:
            raise DataError("detector 'ln': expected labels of at least two classes, got one")
        recipe, device = self.recipe(context.recipe), context.device
        encoder = train_encoder(dataset, context)
        features = check_features(encoder.features(dataset.images))
        generator = stream(context.seed, "detection (ln)", device)
        draw: Callable[[Tensor], Tensor] = features.__getitem__
        if self.augment:
            draw = _augmented(encoder, Batches(dataset.images, recipe, device, generator))
        labels = dataset.labels.to(device)
        with torch.random.fork_rng(devices=[]):  # torch initialises layers from its global generator
            torch.manual_seed(derive(context.seed, "detection (ln)"))
            classifier = nn.Linear(features.shape[1], dataset.num_classes).to(device)
        self._fit(classifier, draw, labels, generator)
        with torch.no_grad():
            return self.losses(classifier(features), labels).cpu()

    def _fit(
        self, classifier: nn.Linear, draw: Callable[[Tensor], Tensor], labels: Tensor, generator: torch.Generator
    ) -> None:
        """Train the classifier on the features that ``draw`` gives for positions (int64, B)."""
        optimizer = torch.optim.Adam(classifier.parameters(), lr=self.lr, fused=True)
        with bar("detection (ln)", self.epochs) as progress:
            for epoch in range(self.epochs):
                order = torch.randperm(len(labels), generator=generator, device=labels.device)
                for index in order.split(self.batch_size):
                    loss = self.losses(classifier(draw(index)), labels[index]).mean()
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                last = loss.item()
                if not math.isfinite(last):
                    raise NabError(f"detector 'ln': the loss is {last} after epoch {epoch + 1}; use a lower lr")
                progress.advance(f"loss {last:.3g}")

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Symmetric cross-entropy (Wang, Ma, Chen, Luo, Yi, Bailey, ICCV 2019), of every sample.

        The reverse part, ``-sum_k p_k log(onehot_k)`` with the logarithm of zero cut off, is ``9.21 (1 - p_y)``. The
        sum falls with p_y and depends on nothing else, so its order is that of ``-p_y``. The source also lifts every
        p_k to 1e-7 at least, which changes the reverse part by less than 1e-6 per class, and is left out.

        Args:
            logits: float32, N x K.
            labels: int64, N.

        Returns:
            float32, N.
        """
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        return self.ce_weight * cross_entropy + self.rce_weight * LOG_ZERO * -torch.expm1(-cross_entropy)


def _augmented(encoder: Predictor, batches: Batches) -> Callable[[Tensor], Tensor]:
    """Positions (int64, B) to features (float32, B x D) of the images there, cropped and mirrored anew."""
    network = encoder.model.eval()

    @torch.no_grad()
    def draw(index: Tensor) -> Tensor:
        return encoder.apply(network.features, batches.augment(index))

    return draw
