"""What all self-supervised trainings share: an encoder for images whose labels nobody trusts, trained once per set."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.training import Context, Output, Predictor
from nab.training.trainer import fresh_predictor


@dataclasses.dataclass(frozen=True)
class SelfSupervised(abc.ABC):
    """Trains an encoder on images alone.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `train` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give another encoder, so that encoders kept before are not used."""

    @abc.abstractmethod
    def train(self, images: Tensor, predictor: Predictor, context: Context) -> list[dict[str, float]]:
        """Train the network of ``predictor`` up to its penultimate features; its last layer stays as it is.

        Args:
            images: uint8, N x C x H x W.
            predictor: fresh.
            context: the seed.

        Returns:
            a row per epoch: ``epoch`` (from 1), ``loss``, ``lr``.
        """


def train_encoder(dataset: Dataset, context: Context) -> Predictor:
    """The context's encoder for a set's images, or the very same one from the cache; their labels play no part.

    All methods that ask for it with the same images share it. Its `Predictor.features` are what it is for.
    """
    from nab.selfsupervised.simclr import SimCLR

    method: SelfSupervised = context.encoder or SimCLR()
    predictor = fresh_predictor(dataset, context.recipe, context.model, context.width, context.device, context.seed)

    def make() -> Output:
        curve = method.train(dataset.images, predictor, context)
        weights = {name: value.cpu() for name, value in predictor.model.state_dict().items()}
        return Output(weights, {"curve": curve})

    inputs = {
        "version": method.version,
        "encoder": method,
        "images": dataset.images,
        "classes": dataset.num_classes,
        "model": context.model,
        "width": context.width,
        "seed": context.seed,
        "mean": context.recipe.mean,
        "std": context.recipe.std,
    }
    predictor.model.load_state_dict(context.keep("encoder", inputs, make).tensors)
    predictor.model.eval()
    return predictor


def find_features(dataset: Dataset, context: Context) -> Tensor:
    """Self-supervised features of a set's images as they are; float32, N x D, on the CPU, not normalised."""
    return train_encoder(dataset, context).features(dataset.images).cpu()
