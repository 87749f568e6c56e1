"""What all attacks share: which samples are poisoned, what label they get, and the book-keeping."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_choice, check_range
from nab.data import Dataset, GroundTruth, stratified_index
from nab.errors import ConfigError
from nab.seeding import stream


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """A backdoor attack: a trigger, and the rule by which labels change.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `trigger` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    clean_label: ClassVar[bool] = False
    """Whether poisoned samples are drawn from the target class and keep their label."""

    @abc.abstractmethod
    def trigger(self, images: Tensor, seed: int) -> Tensor:
        """The images with the trigger: a pure function of the images and the seed, each image by itself.

        Args:
            images: uint8, N x C x H x W.
            seed: of fixed patterns and grids; the same one for training and test images.

        Returns:
            uint8, N x C x H x W; the argument is left as it was.
        """


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


SELECTIONS = ("balanced", "uniform", "exclude_target")


def select_poisons(
    labels: Tensor, rate: float, target: int, seed: int, *, selection: str = "balanced", clean_label: bool = False
) -> Tensor:
    """Which samples are poisoned; the same ones for every attack at the same seed.

    Args:
        labels: int64, N.
        rate: share of all samples, in (0, 1); for clean-label attacks share of the target class.
        target: the class that the backdoor answers.
        seed: of the draw.
        clean_label: whether only samples of the target class may be poisoned.
        selection: ``"balanced"`` draws the rate from every class, the target class included, as the authors of NAB do;
            ``"uniform"`` from all samples at once; ``"exclude_target"`` from all other classes.

    Returns:
        bool, N.

    Raises:
        ConfigError: the rate is not in (0, 1), selects nothing, or asks for more samples than may be poisoned.
    """
    check_range("poison_rate", rate, 0, 1, include_low=False, include_high=False)
    check_choice("selection", selection, SELECTIONS)
    is_poisoned = torch.zeros(len(labels), dtype=torch.bool)
    if selection == "balanced" and not clean_label:
        is_poisoned[stratified_index(labels, rate, seed, "poison selection")] = True
        return is_poisoned
    if clean_label:
        members = (labels == target).nonzero().squeeze(1)
    elif selection == "exclude_target":
        members = (labels != target).nonzero().squeeze(1)
    else:
        members = torch.arange(len(labels))
    count = int(rate * len(members if clean_label else labels) + 0.5 + 1e-9)
    if not 0 < count <= len(members):
        raise ConfigError(
            f"expected a poison_rate that selects from 1 to {len(members)} of the samples that may be poisoned, "
            f"got {rate}, which selects {count}"
        )
    order = torch.randperm(len(members), generator=stream(seed, "poison selection"))
    is_poisoned[members[order[:count]]] = True
    return is_poisoned


def poison(
    dataset: Dataset, attack: Attack, *, rate: float, target: int, seed: int, selection: str = "balanced"
) -> Poisoned:
    """The training set as the attacker hands it over.

    Args:
        dataset: the clean training set.
        attack: whose trigger the chosen samples get; all-to-one, so the others' labels stay.
        rate: share of samples that are poisoned (of the target class, for a clean-label attack), in (0, 1).
        target: the class that the backdoor answers, from 0 to K - 1.
        seed: of the selection and of the trigger.
        selection: see `select_poisons`.

    Raises:
        ConfigError: a parameter is out of its range.
    """
    check_target(target, dataset)
    is_poisoned = select_poisons(
        dataset.labels, rate, target, seed, selection=selection, clean_label=attack.clean_label
    )
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[is_poisoned] = _triggered(attack, dataset.images[is_poisoned], seed)
    labels[is_poisoned] = target
    truth = GroundTruth(dataset.labels, is_poisoned)
    return Poisoned(dataset.replace(images=images, labels=labels), truth)


def trigger_all(dataset: Dataset, attack: Attack, *, target: int, seed: int) -> Triggered:
    """Every image of the test set with the trigger; ``target`` and ``seed`` as in `poison`."""
    check_target(target, dataset)
    attack_labels = torch.full_like(dataset.labels, target)
    return Triggered(_triggered(attack, dataset.images, seed), dataset.labels, attack_labels)


def _triggered(attack: Attack, images: Tensor, seed: int) -> Tensor:
    """The trigger on all images, a thousand at a time: it may compute in floats, four times the size."""
    return torch.cat([attack.trigger(part, seed) for part in images.split(1000)])


def check_target(target: int, dataset: Dataset) -> None:
    """Raise ``ConfigError`` unless ``target`` is a class of the dataset."""
    if not isinstance(target, int) or not 0 <= target < dataset.num_classes:
        raise ConfigError(
            f"expected target from 0 to {dataset.num_classes - 1} ({dataset.num_classes} classes in "
            f"{dataset.name!r}), got {target}"
        )


def to_uint8(images: Tensor) -> Tensor:
    """Floats on the scale 0 to 255, clamped and rounded once, as uint8."""
    return images.clamp(0, 255).add(0.5).floor().to(torch.uint8)
