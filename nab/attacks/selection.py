"""Which samples an attacker poisons, which samples cover for them, and what labels the poisoned ones get."""

from __future__ import annotations

import torch
from torch import Tensor

from nab.checks import check_choice, check_range
from nab.data import Dataset, stratified_index
from nab.errors import ConfigError
from nab.seeding import stream

SELECTIONS = ("balanced", "uniform", "exclude_target")


def select_poisons(
    labels: Tensor, rate: float, target: int, seed: int, *, selection: str = "balanced", clean_label: bool = False
) -> Tensor:
    """Which samples are poisoned; the same ones for every attack at the same seed.

    Args:
        labels: int64, N.
        rate: share of all samples, in (0, 1); for clean-label attacks share of the target class.
        target: the class that the backdoor answers.
        seed: draws the samples.
        clean_label: whether only samples of the target class may be poisoned.
        selection: ``"balanced"`` draws the rate from every class, the target class included, as the authors of NAB do;
            ``"uniform"`` draws from all samples at once; ``"exclude_target"`` draws as many from all classes but the
            target. Clean-label attacks draw from the target class, whatever is given here.

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


LABEL_MAPS = ("all-to-one", "all-to-all")


def attack_labels(labels: Tensor, num_classes: int, target: int, label_map: str = "all-to-one") -> Tensor:
    """The answers that the attacker wants; int64, N.

    Args:
        labels: int64, N; the true labels.
        num_classes: K.
        target: the answer for ``"all-to-one"``; not used for ``"all-to-all"``.
        label_map: ``"all-to-one"`` answers ``target``; ``"all-to-all"`` answers the next class, and the first class
            after the last.
    """
    check_choice("label_map", label_map, LABEL_MAPS)
    return torch.full_like(labels, target) if label_map == "all-to-one" else (labels + 1) % num_classes


def select_covers(is_poisoned: Tensor, share: float, seed: int) -> Tensor:
    """``round(share * N)`` random samples of all classes that are not poisoned; bool, N.

    Raises:
        ConfigError: fewer samples than that are not poisoned.
    """
    members = (~is_poisoned).nonzero().squeeze(1)
    count = int(share * len(is_poisoned) + 0.5 + 1e-9)
    if count > len(members):
        raise ConfigError(f"expected covers of at most {len(members)} samples that are not poisoned, got {count}")
    is_cover = torch.zeros_like(is_poisoned)
    is_cover[members[torch.randperm(len(members), generator=stream(seed, "cover selection"))[:count]]] = True
    return is_cover


def check_target(target: int, dataset: Dataset) -> None:
    """Raise ``ConfigError`` unless ``target`` is a class of the dataset."""
    if not isinstance(target, int) or not 0 <= target < dataset.num_classes:
        raise ConfigError(
            f"expected target from 0 to {dataset.num_classes - 1} ({dataset.num_classes} classes in "
            f"{dataset.name!r}), got {target}"
        )
