"""NAB (Liu, Sangiovanni-Vincentelli, Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023; arXiv:2307.15539).

The defender plants a backdoor too: the stamp means "your label is wrong". Suspects get a pseudo label, and the stamp if
that changes their label; everything else is plain training. At test time every input carries the stamp.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nab.data import Dataset
from nab.defenses.base import Defended, Defense, Suspicion
from nab.defenses.guard import Guard
from nab.detection import LGA, Detector, Rate, check_cut, find_scores, select_suspects
from nab.errors import ConfigError, DataError, NabError
from nab.pseudolabels import VD, Labeler, guess_labels
from nab.stamp import Stamp
from nab.training import Context, Hook, Recipe

log = logging.getLogger(__name__)


class StampHook(Hook):
    """Writes the stamp on chosen samples, after all augmentation."""

    is_static: ClassVar[bool] = True

    def __init__(self, stamp: Stamp, is_stamped: Tensor, device: torch.device) -> None:
        self.inputs = {"stamp": stamp, "is_stamped": is_stamped}
        self._stamp = stamp
        self._is_stamped = is_stamped.to(device)

    def images(self, images: Tensor, index: Tensor) -> Tensor:
        return self._stamp.apply(images, self._is_stamped[index])


class DefendedDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A torch map-style dataset to train on with any loop: pseudo labels in place, stamps written last.

    Attributes:
        labels: int64, N; suspects' labels replaced.
        is_stamped: bool, N.
    """

    def __init__(
        self, dataset: Dataset, suspicion: Suspicion, stamp: Stamp, transform: Callable[[Tensor], Tensor]
    ) -> None:
        self._images = dataset.images
        self._stamp = stamp
        self._transform = transform
        self.labels = torch.where(suspicion.is_suspect, suspicion.pseudo_labels, dataset.labels)
        self.is_stamped = suspicion.is_stamped

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (float, C x H x W, as ``transform`` made it, with the stamp where it belongs) and label."""
        image = self._transform(self._images[index])
        if self.is_stamped[index]:
            image = self._stamp.apply(image[None])[0]
        return image, int(self.labels[index])


@dataclasses.dataclass(frozen=True)
class NAB(Defense):
    """Non-adversarial backdoor.

    Used by `defend` in one go, or piece by piece with a training loop of your own::

        defense = NAB().fit(dataset, verified=checked)
        train_my_network(model, defense.transform(dataset, transform=my_augmentation))
        labels = defense.guard(model).predict(images, reject=True)

    Attributes:
        detector: names the suspects.
        labeler: guesses their true labels.
        detection_rate: share of the training set that is suspected, in (0, 1), the paper's 5 % by default; ``"auto"``
            takes it from the scores, see `nab.detection.automatic_cut`; None if there is a threshold.
        stamp: what is written where.
        detection_threshold: in place of the rate, suspects all samples that score above it.

    Fitted attributes, as scikit-learn names them: ``suspicion_`` (see `Suspicion`), and its parts ``scores_``,
    ``is_suspect_``, ``pseudo_labels_`` and ``is_stamped_``.
    """

    detector: Detector = LGA()
    labeler: Labeler = VD()
    detection_rate: Rate | None = 0.05
    stamp: Stamp = Stamp()
    detection_threshold: float | None = None

    summary: ClassVar[str] = "stamp and relabel a few suspects; stamp every input at test time"
    source: ClassVar[str] = "Liu, Sangiovanni-Vincentelli, Yue 2023"
    takes_suspects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_cut(self.detection_rate, self.detection_threshold, sys.maxsize)

    def fit(
        self,
        dataset: Dataset,
        *,
        verified: Dataset | None = None,
        context: Context | None = None,
        is_suspect: Tensor | None = None,
        pseudo_labels: Tensor | None = None,
    ) -> NAB:
        """Find suspects, guess their labels, decide who gets the stamp.

        Args:
            dataset: the training set that cannot be trusted.
            verified: a small set of clean, correctly labelled images, for labellers that need one.
            context: model, width, seed and device for the detector's and the labeller's networks; the paper's
                ResNet-18 on the CPU by default.
            is_suspect: bool, N; suspects found in another way, in place of the detector's.
            pseudo_labels: int64, N; labels guessed in another way, in place of the labeler's.

        Returns:
            This object, fitted.

        Raises:
            ConfigError: before any training: the labeler needs verified data and there is none of the same classes and
                size, the rate selects no sample, the stamp is too large, or a tensor given has the wrong shape.
        """
        context = context or Context()
        if verified is not None:
            context = dataclasses.replace(context, verified=verified)
        self._check(dataset, context, need_suspects=is_suspect is None, need_labels=pseudo_labels is None)
        if pseudo_labels is not None:
            pseudo_labels = _checked(pseudo_labels, torch.int64, "pseudo_labels", dataset)
        if is_suspect is None:
            with context.stage("detection"):
                scores = find_scores(self.detector, dataset, context)
            is_suspect = select_suspects(scores, self.detection_rate, threshold=self.detection_threshold)
            context = dataclasses.replace(context, scores=scores)
            self._tell_shortfall(int(is_suspect.sum()), len(dataset))
        else:
            is_suspect = _checked(is_suspect, torch.bool, "is_suspect", dataset)
            scores = is_suspect.float()
            context = dataclasses.replace(context, scores=None)
        if pseudo_labels is None:
            with context.stage("pseudo_labels"):
                pseudo_labels = guess_labels(self.labeler, dataset, context, is_suspect=is_suspect, stamp=self.stamp)
        is_stamped = is_suspect & (pseudo_labels != dataset.labels)
        # The hyper-parameters stay frozen; what was fitted is no part of equality, hash or repr.
        object.__setattr__(self, "_suspicion", Suspicion(scores, is_suspect, pseudo_labels, is_stamped))
        return self

    def _tell_shortfall(self, found: int, size: int) -> None:
        if isinstance(self.detection_rate, float) and found < int(self.detection_rate * size):
            log.warning(
                "the detector finds only %d of %d samples suspicious, fewer than the %.3g %% that were asked for",
                found,
                size,
                100 * self.detection_rate,
            )

    def _check(self, dataset: Dataset, context: Context, *, need_suspects: bool, need_labels: bool) -> None:
        """What would fail after minutes of training fails here."""
        names = [dataset.classes[int(label)] for label in dataset.labels.unique()]
        if len(names) < 2:
            raise DataError(
                f"expected samples of at least two classes, got {len(dataset)} that are all labelled {names[0]!r}: "
                "nothing tells poison from the rest, and there is no other label to give it"
            )
        if need_suspects:
            check_cut(self.detection_rate, self.detection_threshold, len(dataset))
            if self.detection_rate == "auto" and self.detector.judges_classes:
                raise ConfigError(
                    f"detector {type(self.detector).__name__} ranks the samples of a class, which leaves no gap for an "
                    "automatic detection_rate: give a share such as 0.05, or take another detector"
                )
        self.stamp.check(dataset.images)
        if need_suspects and self.detector.needs_verified:
            context.require_verified(f"detector {type(self.detector).__name__}", dataset)
        if need_labels and self.labeler.needs_verified:
            verified = context.require_verified(f"labeler {type(self.labeler).__name__}", dataset)
            missing = sorted(set(dataset.labels.tolist()) - set(verified.labels.tolist()))
            if missing:
                log.warning(
                    "the verified data has no sample of class %s, so no pseudo label will be one of those",
                    ", ".join(repr(dataset.classes[label]) for label in missing),
                )

    @property
    def suspicion_(self) -> Suspicion:
        """What `fit` found.

        Raises:
            NabError: `fit` has not been called.
        """
        fitted: Suspicion | None = getattr(self, "_suspicion", None)
        if fitted is None:
            raise NabError("this NAB is not fitted yet: call fit(dataset) first")
        return fitted

    @property
    def scores_(self) -> Tensor:
        return self.suspicion_.scores

    @property
    def is_suspect_(self) -> Tensor:
        return self.suspicion_.is_suspect

    @property
    def pseudo_labels_(self) -> Tensor:
        return self.suspicion_.pseudo_labels

    @property
    def is_stamped_(self) -> Tensor:
        return self.suspicion_.is_stamped

    def transform(self, dataset: Dataset, transform: Callable[[Tensor], Tensor] | None = None) -> DefendedDataset:
        """The fitted dataset, to be trained on with any loop.

        Args:
            dataset: the one that was given to `fit`.
            transform: maps a uint8 image C x H x W to what the network sees, augmentation and normalisation included;
                the stamp is written after it. By default the paper's normalisation and no augmentation.

        Raises:
            NabError: not fitted, or fitted to a dataset of another size.
        """
        if len(dataset) != len(self.is_suspect_):
            raise NabError(
                f"expected the dataset that was fitted, of {len(self.is_suspect_)} images, got one of {len(dataset)}"
            )
        return DefendedDataset(dataset, self.suspicion_, self.stamp, transform or _normalise)

    def guard(self, model: nn.Module) -> Guard:
        """A module around a trained network that stamps its input; see `Guard`."""
        return Guard(model, self.stamp)

    def defend(self, dataset: Dataset, context: Context) -> Defended:
        found = self.fit(dataset, context=context).suspicion_
        relabelled = dataset.replace(labels=torch.where(found.is_suspect, found.pseudo_labels, dataset.labels))
        hook = StampHook(self.stamp, found.is_stamped, context.device)
        with context.stage("training"):
            trained = context.train(relabelled, "training", hook=hook, stamp=self.stamp, is_monitored=True)
        return Defended(trained.predictor, trained.curve, trained.images_per_second, found)


def _normalise(image: Tensor) -> Tensor:
    return Recipe().normalise(image[None])[0]


def _checked(values: Any, dtype: torch.dtype, name: str, dataset: Dataset) -> Tensor:
    """``values`` as a tensor with one entry per sample."""
    tensor = torch.as_tensor(values).cpu()
    if tensor.dtype != dtype or tensor.shape != (len(dataset),):
        raise ConfigError(
            f"expected {name} as {dtype} of length {len(dataset)}, got {tensor.dtype} {tuple(tensor.shape)}"
        )
    if dtype == torch.int64 and not (int(tensor.min()) >= 0 and int(tensor.max()) < dataset.num_classes):
        raise ConfigError(
            f"expected {name} from 0 to {dataset.num_classes - 1}, got {int(tensor.min())} to {int(tensor.max())}"
        )
    return tensor
