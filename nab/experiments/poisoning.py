"""The stage of the attacker: the poisoned training set and the triggered test set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nab.attacks import (
    Poisoned,
    Triggered,
    attack_labels,
    check_target,
    poison,
    select_covers,
    select_poisons,
    trigger_all,
)
from nab.attacks.base import in_order
from nab.data import Dataset, GroundTruth, stratified_index
from nab.detection import check_cut
from nab.experiments.config import RunConfig
from nab.experiments.stages import StageCache
from nab.paths import data_root as _data_root
from nab.seeding import derive
from nab.training import Batches, Keeper, Output, Trainer, resolve_device


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
    """The data of a run, before and after the attacker.

    Attributes:
        full_train: the whole training set, without poison.
        clean: the part of it that is trained on, without poison.
        test: the test set, without triggers.
        poisoned: what the attacker hands over.
        triggered: the test set with the trigger on every image.
    """

    full_train: Dataset
    clean: Dataset
    test: Dataset
    poisoned: Poisoned
    triggered: Triggered


def make_trainer(config: RunConfig, *, device: str = "auto", keeper: Keeper | None = None) -> Trainer:
    """How a run trains; stages are kept in the user's cache by default."""
    return Trainer(
        recipe=config.make_recipe(),
        architecture=config.make_architecture(),
        # Another number than the attacker's, from which the poisoned rows follow.
        seed=derive(config.seed, "defender"),
        device=resolve_device(device),
        keeper=StageCache() if keeper is None else keeper,
    )


def attack_data(config: RunConfig, trainer: Trainer, data_root: str | Path | None = None) -> Attacked:
    """The data of a run, attacked as ``config`` says.

    Args:
        config: the run.
        trainer: trains the networks of an attack that needs some, and keeps the poisoned data.
        data_root: see `nab.data.load`.

    Raises:
        NabError: the data cannot be had, or a setting of attack or defense does not fit it; nothing has been trained
            then.
    """
    source = config.make_source()
    full_train, test = source.load(_data_root(data_root))
    clean = source.take(full_train, config.seed)
    _check_defender(config, clean, _poisoned_labels(config, clean), trainer)
    return Attacked(full_train, clean, test, *_attack(config, clean, test, trainer))


def _poisoned_labels(config: RunConfig, clean: Dataset) -> Tensor:
    """The labels that the attacker will hand over, row by row; int64, N.

    Raises:
        ConfigError: a setting of the attack does not fit the data.
    """
    check_target(config.target, clean)
    if config.poison_rate is None:
        return clean.labels
    attack, seed = config.make_attack(), config.seed
    how: dict[str, Any] = {"selection": config.selection, "clean_label": attack.clean_label}
    is_poisoned = select_poisons(clean.labels, config.poison_rate, config.target, seed, **how)
    select_covers(is_poisoned, attack.cover_share, seed)
    wanted = attack_labels(clean.labels, clean.num_classes, config.target, config.label_map)
    return wanted.where(is_poisoned, clean.labels)


def _check_defender(config: RunConfig, clean: Dataset, labels: Tensor, trainer: Trainer) -> None:
    """Raise ``NabError`` if a setting of the defender does not fit the data, before the attack is prepared, which may
    take minutes."""
    one = clean.subset(torch.zeros(1, dtype=torch.long))
    Batches(one, trainer.recipe, torch.device("cpu"), torch.Generator())  # checks the augmentation
    seen = clean.replace(labels=labels)
    if config.detector is not None:
        check_cut(config.detection_rate, config.detection_threshold, len(seen))
    verified = draw_verified(clean, config.verified_rate, config.seed)
    for method in (config.make_defense(), config.make_detector(), config.make_labeler()):
        if method is not None:
            method.check(seen, trainer, verified)


def _attack(config: RunConfig, clean: Dataset, test: Dataset, trainer: Trainer) -> tuple[Poisoned, Triggered]:
    """What the attacker hands over, made or found in the cache. Of the training set, only the rows that the attacker
    changed are kept."""
    attack = config.make_attack()
    settings: dict[str, Any] = {"target": config.target, "seed": config.seed, "label_map": config.label_map}
    choice: dict[str, Any] = {"rate": config.poison_rate or 0.0, "selection": config.selection}

    def make() -> Output:
        ready = attack.prepare(clean, dataclasses.replace(trainer, seed=config.seed), target=config.target)
        poisoned = poison(clean, ready, **settings, **choice)
        triggered = trigger_all(test, ready, **settings)
        truth = poisoned.truth
        assert truth.origin is not None
        assert truth.is_cover is not None
        back = truth.origin.argsort()  # in the order of the clean set
        images = poisoned.dataset.images[back]
        is_changed = (images != clean.images).flatten(1).any(1)
        rows = {
            "order": truth.origin,
            "changed": is_changed.nonzero().squeeze(1),
            "images": images[is_changed],
            "labels": poisoned.dataset.labels[back],
            "is_poisoned": truth.is_poisoned[back],
            "is_cover": truth.is_cover[back],
            "triggered": triggered.images,
            "attack_labels": triggered.attack_labels,
        }
        return Output(rows)

    inputs = {"attack": attack.inputs, **settings, **choice, "clean": clean, "test": test}
    if attack.is_trained:
        inputs |= {"recipe": trainer.recipe.effective(), "architecture": trainer.architecture}
    kept = trainer.keep("attack", inputs, make).tensors
    images = clean.images.clone()
    images[kept["changed"]] = kept["images"]
    truth = GroundTruth(clean.labels, kept["is_poisoned"], kept["is_cover"])
    poisoned = in_order(clean, images, kept["labels"], truth, kept["order"])
    return poisoned, Triggered(kept["triggered"], test.labels, kept["attack_labels"])


def draw_verified(clean: Dataset, rate: float | None, seed: int) -> Dataset | None:
    """A small, class-balanced part of the clean training set; None if no rate is given.

    Raises:
        ConfigError: the rate selects no image.
    """
    if rate is None:
        return None
    return clean.subset(stratified_index(clean.labels, rate, seed, "verified data"))
