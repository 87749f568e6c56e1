"""NAB (Liu, Sangiovanni-Vincentelli, Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023; arXiv:2307.15539).

The defender plants a backdoor too: the stamp means "your label is wrong". Suspects get a pseudo label, and the stamp if
that changes their label; everything else is plain training. At test time every input carries the stamp.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from nab.data import IDENTITY, Dataset, Normalization
from nab.defenses.base import TRAINING, Defended, Defense
from nab.defenses.deployed import Deployed, Response
from nab.defenses.guard import Guard
from nab.defenses.stamping import StampedTraining
from nab.errors import ConfigError
from nab.needs import Given, Suspicion
from nab.stamp import Stamp
from nab.training import Predictor, Runtime, Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Stamped(Deployed):
    """A network that sees every image with the stamp.

    It advises to refuse an image if the network answers differently without the stamp: NAB's test-data filter. Such an
    image may carry a trigger, or the stamp may have cost it its class. The variant ``unstamped`` is the bare network.

    Attributes:
        stamp: the one that the network was trained with.
    """

    stamp: Stamp = Stamp()

    summary: ClassVar[str] = "the stamp on every image"

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        inputs = self.predictor.normalize(pixels)
        logits = self.predictor.forward(self.stamp.on(self.predictor.normalization)(inputs))
        if not is_full:
            return Response(logits)
        bare = self.predictor.forward(inputs)
        return Response(logits, is_refused=logits.argmax(1) != bare.argmax(1), variants={"unstamped": bare})


class DefendedDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A torch map-style dataset to train on with any loop: pseudo labels in place, stamps written last.

    Attributes:
        labels: int64, N; suspects' labels replaced.
        is_stamped: bool, N.
    """

    def __init__(
        self, dataset: Dataset, suspicion: Suspicion, defense: NAB, transform: Callable[[Tensor], Tensor]
    ) -> None:
        self._images = dataset.images
        self._stamp = defense.stamp.on(dataset.normalization)
        self._transform = transform
        self.labels = suspicion.relabeled(dataset).labels
        self.is_stamped = defense.stamped_samples(dataset, suspicion)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (float, C x H x W, as ``transform`` made it, with the stamp where it belongs) and label."""
        image = self._transform(self._images[index])
        if self.is_stamped[index]:
            image = self._stamp(image[None])[0]
        return image, int(self.labels[index])


@dataclasses.dataclass(frozen=True)
class NAB(Defense):
    """Non-adversarial backdoor.

    Used by `nab.defend` in one go, or piece by piece with a training loop of your own::

        suspicion = nab.find_suspects(dataset, nab.LGA(), nab.VD(), verified=checked)
        train_my_network(model, nab.NAB().transform(dataset, suspicion, transform=my_augmentation))
        labels = nab.NAB().guard(model).predict(images, reject=True)

    Attributes:
        stamp: what is written where.
    """

    stamp: Stamp = Stamp()

    summary: ClassVar[str] = "stamp and relabel a few suspects; stamp every input at test time"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects", "pseudo labels"})

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        self.stamp.check(dataset.images)

    def stamped_samples(self, dataset: Dataset, suspicion: Suspicion) -> Tensor:
        """The samples that are trained with the stamp: suspects whose label changes; bool, N."""
        return suspicion.is_suspect & (suspicion.relabeled(dataset).labels != dataset.labels)

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.suspicion is not None
        is_stamped = self.stamped_samples(dataset, given.suspicion)
        smoothing = trainer.recipe.label_smoothing
        step = StampedTraining(self.stamp, is_stamped, dataset.normalization, trainer.device, smoothing)
        watch = functools.partial(Stamped, stamp=self.stamp)
        trained = trainer.train(given.suspicion.relabeled(dataset), f"{TRAINING} (nab)", step=step, watch=watch)
        return Defended(Stamped(trained.predictor, self.stamp), {TRAINING: trained}, is_stamped=is_stamped)

    def transform(
        self, dataset: Dataset, suspicion: Suspicion, transform: Callable[[Tensor], Tensor] | None = None
    ) -> DefendedDataset:
        """The training set as NAB wants it, to be trained on with any loop.

        Args:
            dataset: the one in which suspects were found.
            suspicion: suspects and their pseudo labels; see `nab.find_suspects`.
            transform: maps a uint8 image C x H x W to what the network sees, augmentation and normalization included;
                the stamp is written after it. By default the dataset's normalization and no augmentation.

        Raises:
            ConfigError: the suspicion is about another number of samples, has no labels, or the stamp is too large.
        """
        if len(dataset) != len(suspicion.is_suspect):
            raise ConfigError(
                f"expected the dataset in which suspects were found, of {len(suspicion.is_suspect)} images, got one of "
                f"{len(dataset)}"
            )
        self.stamp.check(dataset.images)
        return DefendedDataset(
            dataset, suspicion, self, transform or (lambda image: dataset.normalization.apply(image[None])[0])
        )

    def guard(self, model: nn.Module, normalization: Normalization = IDENTITY) -> Guard:
        """A module around a trained network that stamps its input.

        Args:
            model: maps normalized images to logits; trained on what `transform` returned.
            normalization: what the guard's input has to go through before the stamp and the network. By default it is
                normalized already.
        """
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        runtime = Runtime(device, torch.float32, channels_last=False)
        return Guard(Stamped(Predictor(model, normalization, runtime), self.stamp))
