"""What all self-supervised trainings share: an encoder for images whose labels nobody trusts, trained once per set."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from nab.data import Dataset
from nab.errors import DataError, NabError
from nab.seeding import derive, stream
from nab.selfsupervised.views import Views
from nab.training import (
    Batch,
    Output,
    Predictor,
    RawBatches,
    Recipe,
    Step,
    Trainer,
    fit,
    pack_weights,
    unpack_weights,
)
from nab.training.loop import Observer

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of the embeddings of two views of the same images (both float32, B x E): a scalar."""


class TwoViews(Step):
    """The loss of two random views of every image.

    Args:
        head: features (B x D) to embeddings (B x E); trained along with the network and then of no use.
        compare: the loss of two views.
        views: how the views are drawn.
        generator: on the device; gives the views.
        joins_views: whether both views pass the network in one batch; see `SelfSupervised`.
    """

    def __init__(
        self, head: nn.Module, compare: Loss, views: Views, generator: torch.Generator, *, joins_views: bool
    ) -> None:
        self._head, self._compare, self._views, self._generator = head, compare, views, generator
        self._joins_views = joins_views

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        both = predictor.normalize(self._views.draw(batch.images.repeat(2, 1, 1, 1), self._generator))

        def embed(images: Tensor) -> Tensor:
            embeddings: Tensor = self._head(predictor.network.features(images))
            return embeddings

        if self._joins_views:
            first, second = predictor.apply(embed, both).chunk(2)
        else:
            first, second = (predictor.apply(embed, view) for view in both.chunk(2))
        return self._compare(first, second)


@dataclasses.dataclass(frozen=True)
class SelfSupervised(abc.ABC):
    """Trains an encoder on images alone. Each image is shown in two random views.

    A subclass is a frozen dataclass that gives the fields below their defaults, adds hyper-parameters of its own, and
    writes `make_head` and `make_loss`.

    Attributes:
        epochs: passes over the images; an epoch shows two views of each image.
        batch_size: images per step; each has two views.
        lr: learning rate of SGD at the start; it follows a cosine.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: by how much the cosine is longer than the training.
        views: how the views are drawn. The default is the same for all encoders, so that only their losses differ.

    Raises:
        ConfigError: a value is out of its range.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    cosine_extra_epochs: int
    views: Views = Views()

    summary: ClassVar[str]
    source: ClassVar[str]
    joins_views: ClassVar[bool] = True
    """Whether both views pass the network in one batch, so that batch normalization takes its statistics from both."""

    def __post_init__(self) -> None:
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the encoder is trained; precision as in ``base``."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            cosine_extra_epochs=self.cosine_extra_epochs,
            precision=base.precision,
        ).without_augmentation()

    @abc.abstractmethod
    def make_head(self, features: int) -> nn.Module:
        """The module behind the encoder while it is trained: B x ``features`` to B x E. Its fresh weights come from
        torch's global generator, which is seeded."""

    @abc.abstractmethod
    def make_loss(self) -> Loss:
        """The loss of two views."""

    def train(
        self, dataset: Dataset, predictor: Predictor, seed: int, observe: Observer | None = None
    ) -> list[dict[str, float]]:
        """Train the network of a fresh ``predictor`` up to its features; its classifier stays as it is.

        Samples that do not fill a batch are left out of their epoch, because the losses depend on how many samples are
        compared. A set smaller than a batch is one batch.

        Args:
            dataset: whose images are seen; its labels are not read.
            predictor: left in evaluation mode.
            seed: gives the order, the views and the head's weights.
            observe: called with the predictor after every epoch.

        Returns:
            a row per epoch; see `nab.training.fit`.

        Raises:
            NabError: the loss stopped being a finite number.
        """
        device, recipe = predictor.runtime.device, self.recipe(Recipe())
        generator = stream(seed, "views", device)
        with torch.random.fork_rng(devices=[]):  # torch's global generator gives new layers their weights
            torch.manual_seed(derive(seed, "head"))
            head = predictor.runtime.place(self.make_head(predictor.network.classifier.in_features))
        no_labels = torch.zeros(len(dataset), dtype=torch.int64)
        source = RawBatches(dataset.images, no_labels, self.batch_size, generator, drop_last=True)
        step = TwoViews(head, self.make_loss(), self.views, generator, joins_views=self.joins_views)
        title = f"encoder ({type(self).__name__})"
        return fit(predictor, source, recipe, step, along=[head], observe=observe, title=title).curve


def train_encoder(
    dataset: Dataset, trainer: Trainer, method: SelfSupervised, observe: Observer | None = None
) -> Predictor:
    """The encoder for a set's images, or the very same one from the cache. Labels play no part.

    Methods use its `Predictor.features`.

    Args:
        dataset: the images.
        trainer: architecture, seed, device and precision.
        method: how to train.
        observe: called with the predictor after every epoch; never for an encoder from the cache.

    Raises:
        DataError: fewer than two images.
        NabError: the loss stopped being a finite number.
    """
    if len(dataset) < 2:
        raise DataError(f"encoder: expected at least two training images, got {len(dataset)}")
    predictor = trainer.fresh(dataset, "encoder")
    seed = derive(trainer.seed, "encoder")

    def make() -> Output:
        rows = method.train(dataset, predictor, seed, observe)
        # What was observed is left out: it depends on the observer.
        curve = [{name: row[name] for name in ("epoch", "loss", "lr")} for row in rows]
        return Output(pack_weights(predictor.network), {"curve": curve})

    inputs = {
        "encoder": method,
        "images": dataset.images,
        "classes": dataset.num_classes,
        "normalization": dataset.normalization,
        "architecture": trainer.architecture,
        "seed": seed,
    }
    unpack_weights(trainer.keep("encoder", inputs, make).tensors, predictor.network)
    return predictor


def find_features(dataset: Dataset, encoder: Predictor) -> Tensor:
    """Self-supervised features of a set's images, without augmentation; float32, N x D, on the CPU, not scaled.

    Raises:
        NabError: the features are not finite or do not differ; see `check_features`.
    """
    return check_features(encoder.features(dataset.images).cpu())


def check_features(features: Tensor) -> Tensor:
    """The features (float, N x D), if they are finite and tell any images apart.

    Raises:
        NabError: they are not.
    """
    if not features.isfinite().all():
        first = int((~features.isfinite()).any(1).nonzero()[0])
        raise NabError(
            f"expected finite self-supervised features, got others for image {first}; the encoder's training may have "
            "diverged: use a lower learning rate (encoder.lr)"
        )
    if (features == features[0]).all():
        raise NabError(
            "the self-supervised features of all images are the same; the encoder's training may have collapsed: use "
            "a lower learning rate (encoder.lr)"
        )
    return features


def features_recipe(base: Recipe) -> Recipe:
    """The part of a recipe that features depend on: the `recipe` of a method that trains nothing but an encoder."""
    return Recipe(precision=base.precision)
