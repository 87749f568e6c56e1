"""What all attacks share: the interface, the poisoned training set, and the triggered test set."""

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
from nab.seeding import derive, stream
from nab.training import Trainer


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
    """Whether the backdoor may answer every class with the next one; never for clean-label attacks."""

    usual_rate: ClassVar[float] = 0.1
    """The poison rate at which it is usually measured: a share of all samples, or of the target class for clean-label
    attacks."""

    is_trained: ClassVar[bool] = False
    """Whether `prepare` trains networks, so that the attack depends on the trainer's recipe and architecture."""

    plants: ClassVar[bool] = True
    """Whether any sample is poisoned; false for no attack."""

    def check_label_map(self, label_map: str) -> None:
        """Raise ``ConfigError`` if the attack is not defined for ``label_map``."""
        if label_map == "all-to-all" and (self.clean_label or not self.allows_all_to_all):
            raise ConfigError(f"expected label_map 'all-to-one' for {type(self).__name__}, got 'all-to-all'")

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Everything that the trigger depends on besides images and seed; see `nab.digest.describe`."""
        return {"attack": self}

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> Attack:
        """The attack, ready for this data. An attack that trains surrogates or generators does so here.

        Args:
            dataset: the clean training set, of which the attacker knows all.
            trainer: trains the attack's networks and keeps them; every random choice comes from its seed.
            target: the class that the backdoor answers.
        """
        return self

    @abc.abstractmethod
    def trigger(self, images: Tensor, seed: int) -> Tensor:
        """The images with the trigger, as at test time.

        The result depends on images and seed alone, and an image's result does not depend on the other images.

        Args:
            images: uint8, N x C x H x W, on any device.
            seed: draws fixed patterns and grids; the same one for training and test images. What differs from image to
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

        It is the field ``cover_rate`` if the attack has one, else 0.
        """
        return float(getattr(self, "cover_rate", 0.0))

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        """The training images as covers; the same as poison by default. Arguments and result as for `trigger`."""
        return self.poison_images(images, seed)

    def cover_images_by_class(self, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """The training images as covers, for an attack whose covers differ from class to class; by default they do not.

        Args:
            images: as for `trigger`.
            labels: int64, N; the true labels.
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
        attack_labels: int64, N; the answers that the attacker wants.
    """

    images: Tensor
    true_labels: Tensor
    attack_labels: Tensor

    @property
    def is_eligible(self) -> Tensor:
        """bool, N: images on which an attack can succeed, because their true label is not the attacker's answer."""
        return self.true_labels != self.attack_labels

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that depend on images, labels and their order."""
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

    Its rows come in a random order: the clean set may be sorted by content, and changed rows would stand out in that
    order. ``truth.origin`` tells which clean row each sample was made from.

    Args:
        dataset: the clean training set.
        attack: the attack, prepared if it needs to be. One whose ``plants`` is false changes nothing.
        rate: share of samples that are poisoned (of the target class, for a clean-label attack), in (0, 1); not used if
            the attack changes nothing.
        target: the class that the backdoor answers, from 0 to K - 1.
        seed: draws the selection, the trigger and the order of the rows.
        selection: see `select_poisons`.
        label_map: see `attack_labels`.

    Raises:
        ConfigError: a parameter is out of its range.
    """
    attack.check_label_map(label_map)
    check_target(target, dataset)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    is_poisoned = is_cover = torch.zeros(len(labels), dtype=torch.bool)
    if attack.plants:
        is_poisoned = select_poisons(
            dataset.labels, rate, target, seed, selection=selection, clean_label=attack.clean_label
        )
        images[is_poisoned] = _in_parts(attack.poison_images, dataset.images[is_poisoned], seed)
        labels[is_poisoned] = attack_labels(labels[is_poisoned], dataset.num_classes, target, label_map)
        is_cover = select_covers(is_poisoned, attack.cover_share, seed)
    if is_cover.any():
        images[is_cover] = _covers(attack, dataset.subset(is_cover), seed)
    truth = GroundTruth(dataset.labels, is_poisoned, is_cover)
    order = torch.randperm(len(labels), generator=stream(seed, "row order"))
    return in_order(dataset, images, labels, truth, order)


def in_order(dataset: Dataset, images: Tensor, labels: Tensor, truth: GroundTruth, order: Tensor) -> Poisoned:
    """The poisoned set in its final order.

    Args:
        dataset: the clean training set.
        images: uint8, N x C x H x W; all images, changed or not, in the order of the clean set.
        labels: int64, N; their labels, in the same order.
        truth: the truth about them, in the same order.
        order: int64, N; the row of the clean set that comes at each place.
    """
    is_cover = torch.zeros_like(truth.is_poisoned) if truth.is_cover is None else truth.is_cover
    shuffled = GroundTruth(truth.true_labels[order], truth.is_poisoned[order], is_cover[order], order)
    return Poisoned(dataset.replace(images=images, labels=labels, files=None).subset(order), shuffled)


def trigger_all(
    dataset: Dataset, attack: Attack, *, target: int, seed: int, label_map: str = "all-to-one"
) -> Triggered:
    """Every image of the test set with the trigger.

    Args:
        dataset: the clean test set.
        attack: the attack, prepared if it needs to be.
        target: as for `poison`.
        seed: the one with which the training set was poisoned.
        label_map: see `attack_labels`.

    Raises:
        ConfigError: a parameter is out of its range.
    """
    attack.check_label_map(label_map)
    check_target(target, dataset)
    wanted = attack_labels(dataset.labels, dataset.num_classes, target, label_map)
    return Triggered(_in_parts(attack.trigger, dataset.images, seed), dataset.labels, wanted)


PART = 1000
"""Images that are changed at a time, because an attack may compute in floats, four times the size."""


def _in_parts(change: Callable[[Tensor, int], Tensor], images: Tensor, seed: int) -> Tensor:
    return torch.cat([change(part, seed) for part in images.split(PART)])


def _covers(attack: Attack, chosen: Dataset, seed: int) -> Tensor:
    parts = zip(chosen.images.split(PART), chosen.labels.split(PART), strict=True)
    return torch.cat([attack.cover_images_by_class(images, labels, seed) for images, labels in parts])


def not_prepared(attack: Attack) -> ConfigError:
    """The error for an attack that needs `Attack.prepare` and is used without it."""
    name = type(attack).__name__
    return ConfigError(f"expected a prepared {name}, got one as constructed; use what its prepare() returns")


def draw_per_image(images: Tensor, seed: int, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """One random draw per image, which depends on its pixels and the seed alone, not on its place in a batch.

    Args:
        images: uint8, N x C x H x W.
        seed: the attack's seed.
        purpose: names the stream.
        draw: makes a tensor on the CPU with the generator that it is given; the shape must always be the same.

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
