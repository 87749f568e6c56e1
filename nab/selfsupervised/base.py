"""What all self-supervised trainings share: an encoder for images whose labels nobody trusts, trained once per set."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nab.data import Dataset
from nab.errors import NabError
from nab.seeding import derive, stream
from nab.selfsupervised.loop import Loss, train_on_views
from nab.selfsupervised.views import Views
from nab.training import Context, Monitor, Output, Predictor, Recipe
from nab.training.trainer import fresh_predictor


@dataclasses.dataclass(frozen=True)
class SelfSupervised(abc.ABC):
    """Trains an encoder on images alone, of each of which it sees two random views.

    A subclass is a frozen dataclass that gives the fields below their defaults, adds hyper-parameters of its own, and
    writes `make_head` and `make_loss`.

    Attributes:
        epochs: passes over the images, each of which an epoch shows twice.
        batch_size: images per step, of two views each.
        lr: of SGD, at the start; it follows a cosine.
        momentum: of SGD, without Nesterov.
        weight_decay: on all parameters.
        cosine_extra_epochs: by how much the cosine is longer than the training.
        views: how the views are drawn; the same for all by default, so that encoders differ in their loss alone.

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
    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give another encoder, so that encoders kept before are not used."""

    def __post_init__(self) -> None:
        self.recipe(Recipe())  # its checks

    def recipe(self, base: Recipe) -> Recipe:
        """How the encoder is trained; normalisation and precision as in ``base``."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            cosine_extra_epochs=self.cosine_extra_epochs,
            mean=base.mean,
            std=base.std,
            precision=base.precision,
        ).without_augmentation()

    @abc.abstractmethod
    def make_head(self, features: int) -> nn.Module:
        """What stands behind the encoder while it is trained: B x ``features`` to B x E; fresh weights from torch's
        global generator, which is seeded."""

    @abc.abstractmethod
    def make_loss(self) -> Loss:
        """The loss of two views."""

    def train(
        self, images: Tensor, predictor: Predictor, seed: int, monitor: Monitor | None = None
    ) -> list[dict[str, float]]:
        """Train the network of a fresh ``predictor``; see `train_on_views`."""
        device = predictor.runtime.device
        with torch.random.fork_rng(devices=[]):  # torch initialises layers from its global generator
            torch.manual_seed(derive(seed, "head"))
            head = self.make_head(predictor.model.linear.in_features)
        return train_on_views(
            images,
            predictor,
            self.recipe(predictor.recipe),
            head=predictor.runtime.place(head),
            loss=self.make_loss(),
            views=self.views,
            generator=stream(seed, "views", device),
            title=f"encoder ({type(self).__name__})",
            monitor=monitor,
        )


def train_encoder(dataset: Dataset, context: Context, monitor: Monitor | None = None) -> Predictor:
    """The context's encoder for a set's images, or the very same one from the cache; their labels play no part.

    All methods that ask for it with the same images share it. Its `Predictor.features` are what it is for. A monitor
    is called after every epoch; an encoder that was found has none.

    Raises:
        DataError: fewer than two images.
        NabError: the loss stopped being a finite number.
    """
    method = _method(context)
    seed = derive(context.seed, "encoder")
    predictor = fresh_predictor(dataset, context.recipe, context.model, context.width, context.device, seed)

    def make() -> Output:
        rows = method.train(dataset.images, predictor, seed, monitor)
        curve = [{name: row[name] for name in ("epoch", "loss", "lr")} for row in rows]  # whoever monitored
        weights = {name: value.cpu() for name, value in predictor.model.state_dict().items()}
        return Output(weights, {"curve": curve})

    inputs = encoder_inputs(context) | {
        "images": dataset.images,
        "classes": dataset.num_classes,
        "model": context.model,
        "width": context.width,
        "seed": seed,
        "mean": context.recipe.mean,
        "std": context.recipe.std,
    }
    predictor.model.load_state_dict(context.keep("encoder", inputs, make).tensors)
    predictor.model.eval()
    return predictor


def encoder_inputs(context: Context) -> dict[str, Any]:
    """What the context says of the encoder, for the key of whatever is made from its features."""
    method = _method(context)
    return {"version": method.version, "encoder": method}


def _method(context: Context) -> SelfSupervised:
    from nab.selfsupervised.simclr import SimCLR

    method: SelfSupervised = context.encoder or SimCLR()
    return method


def find_features(dataset: Dataset, context: Context) -> Tensor:
    """Self-supervised features of a set's images as they are; float32, N x D, on the CPU, not normalised.

    Raises:
        DataError: fewer than two images.
        NabError: the encoder's training diverged.
    """
    return check_features(train_encoder(dataset, context).features(dataset.images).cpu())


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
    """The part of a recipe that features depend on: the `recipe` of a method that trains no network besides them."""
    return Recipe(mean=base.mean, std=base.std, precision=base.precision)
