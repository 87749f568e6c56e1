"""What all attacks share: which samples are poisoned, what label they get, and the book-keeping."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nab.attacks.selection import SELECTIONS as SELECTIONS
from nab.attacks.selection import attack_labels, check_target, select_covers, select_poisons
from nab.data import Dataset, GroundTruth
from nab.digest import tensor_digest
from nab.errors import ConfigError
from nab.seeding import derive
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """A backdoor attack: a trigger, and the rule by which labels change.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `trigger` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    clean_label: ClassVar[bool] = False
    """Whether poisoned samples are drawn from the target class and keep their label."""

    allows_all_to_all: ClassVar[bool] = True
    """Whether every class may be answered by the next one; never for clean-label attacks."""

    usual_rate: ClassVar[float] = 0.1
    """The poison rate at which it is usually measured: of all samples, or of the target class for clean labels."""

    version: ClassVar[int] = 1
    """Raised when the same hyper-parameters come to give other images, so that those kept before are not used."""

    is_trained: ClassVar[bool] = False
    """Whether `prepare` trains networks, so that the attack depends on the context's recipe and model."""

    def check_label_map(self, label_map: str) -> None:
        """Raise ``ConfigError`` if the attack is not defined for ``label_map``."""
        if label_map == "all-to-all" and (self.clean_label or not self.allows_all_to_all):
            raise ConfigError(f"expected label_map 'all-to-one' for {type(self).__name__}, got 'all-to-all'")

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Everything that the trigger depends on besides images and seed; see `nab.digest.describe`."""
        return {"version": self.version, "attack": self}

    def prepare(self, dataset: Dataset, context: Context, *, target: int) -> Attack:
        """The attack, ready for this data; one that trains surrogates or generators does so here.

        Args:
            dataset: the clean training set, of which the attacker knows all.
            context: how and where to train, the seed, and who keeps what was trained.
            target: the class that the backdoor answers.
        """
        return self

    @abc.abstractmethod
    def trigger(self, images: Tensor, seed: int) -> Tensor:
        """The images with the trigger, as at test time: a pure function of images and seed, each image by itself.

        Args:
            images: uint8, N x C x H x W, on any device.
            seed: of fixed patterns and grids; the same one for training and test images. What differs from image to
                image is drawn with `draw_per_image`.

        Returns:
            uint8, N x C x H x W, on the same device; the argument is left as it was.
        """

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        """The training images as poison; the trigger by default. Arguments and result as for `trigger`."""
        return self.trigger(images, seed)

    @property
    def cover_share(self) -> float:
        """Share of the training set that is changed but keeps its true label, to hide the poison.

        The field ``cover_rate`` of an attack that has one; else 0.
        """
        return float(getattr(self, "cover_rate", 0.0))

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        """The training images as covers; as poison by default. Arguments and result as for `trigger`."""
        return self.poison_images(images, seed)

    def cover_images_by_class(self, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """The same for an attack whose covers differ from class to class; by default they do not.

        Args:
            images: as for `trigger`.
            labels: int64, N; the true ones.
            seed: as for `trigger`.
        """
        return self.cover_images(images, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set: ``dataset`` is all that a defender may see, ``truth`` stands apart from it."""

    dataset: Dataset
    truth: GroundTruth


@dataclasses.dataclass(frozen=True, eq=False)
class Triggered:
    """The test set with the trigger on every image.

    Attributes:
        images: uint8, N x C x H x W.
        true_labels: int64, N.
        attack_labels: int64, N; what the attacker wants to be answered.
    """

    images: Tensor
    true_labels: Tensor
    attack_labels: Tensor

    @property
    def is_eligible(self) -> Tensor:
        """bool, N: images on which an attack can succeed, that is, not of the target class already."""
        return self.true_labels != self.attack_labels

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that depend on images and labels."""
        return tensor_digest(self.images, self.true_labels, self.attack_labels)

    def subset(self, index: Tensor) -> Triggered:
        """The rows of ``index`` (int64 positions), in that order."""
        return Triggered(self.images[index], self.true_labels[index], self.attack_labels[index])


def poison(
    dataset: Dataset,
    attack: Attack,
    *,
    rate: float,
    target: int,
    seed: int,
    selection: str = "balanced",
    label_map: str = "all-to-one",
) -> Poisoned:
    """The training set as the attacker hands it over.

    Args:
        dataset: the clean training set.
        attack: whose trigger the chosen samples get; one that trains must have been prepared.
        rate: share of samples that are poisoned (of the target class, for a clean-label attack), in (0, 1).
        target: the class that the backdoor answers, from 0 to K - 1.
        seed: of the selection and of the trigger.
        selection: see `select_poisons`.
        label_map: see `attack_labels`.

    Raises:
        ConfigError: a parameter is out of its range.
    """
    attack.check_label_map(label_map)
    check_target(target, dataset)
    is_poisoned = select_poisons(
        dataset.labels, rate, target, seed, selection=selection, clean_label=attack.clean_label
    )
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[is_poisoned] = _in_parts(attack.poison_images, dataset.images[is_poisoned], seed)
    labels[is_poisoned] = attack_labels(labels[is_poisoned], dataset.num_classes, target, label_map)
    is_cover = select_covers(is_poisoned, attack.cover_share, seed)
    if is_cover.any():
        images[is_cover] = _covers(attack, dataset.subset(is_cover), seed)
    truth = GroundTruth(dataset.labels, is_poisoned, is_cover)
    return Poisoned(dataset.replace(images=images, labels=labels), truth)


def trigger_all(
    dataset: Dataset, attack: Attack, *, target: int, seed: int, label_map: str = "all-to-one"
) -> Triggered:
    """Every image of the test set with the trigger; other arguments as in `poison`."""
    attack.check_label_map(label_map)
    check_target(target, dataset)
    wanted = attack_labels(dataset.labels, dataset.num_classes, target, label_map)
    return Triggered(_in_parts(attack.trigger, dataset.images, seed), dataset.labels, wanted)


PART = 1000
"""Images that are changed at a time: an attack may compute in floats, four times the size."""


def _in_parts(change: Callable[[Tensor, int], Tensor], images: Tensor, seed: int) -> Tensor:
    return torch.cat([change(part, seed) for part in images.split(PART)])


def _covers(attack: Attack, chosen: Dataset, seed: int) -> Tensor:
    parts = zip(chosen.images.split(PART), chosen.labels.split(PART), strict=True)
    return torch.cat([attack.cover_images_by_class(images, labels, seed) for images, labels in parts])


def not_prepared(attack: Attack) -> ConfigError:
    """The error for an attack that needs `Attack.prepare` and is used without."""
    name = type(attack).__name__
    return ConfigError(f"expected a prepared {name}, got one as constructed; use what its prepare() returns")


def draw_per_image(images: Tensor, seed: int, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """One random draw per image, which depends on its pixels and the seed alone, not on its place in a batch.

    Args:
        images: uint8, N x C x H x W.
        seed: of the attack.
        purpose: names the stream.
        draw: makes a tensor on the CPU with the generator it is given; always of the same shape.

    Returns:
        N x that shape, on the images' device.
    """
    generator = torch.Generator()
    drawn = []
    for row in images.cpu().contiguous().flatten(1).numpy():
        content = hashlib.blake2b(row.data, digest_size=16).hexdigest()
        drawn.append(draw(generator.manual_seed(derive(seed, f"{purpose}/{content}"))))
    return torch.stack(drawn).to(images.device)


def to_uint8(images: Tensor) -> Tensor:
    """Floats on the scale 0 to 255, clamped and rounded once, as uint8."""
    return images.clamp(0, 255).add(0.5).floor().to(torch.uint8)
