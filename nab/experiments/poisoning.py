"""The stage of the attacker: the poisoned training set and the triggered test set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nab.attacks import Poisoned, Triggered, check_target, poison, trigger_all
from nab.data import Dataset, GroundTruth, load, take
from nab.experiments.config import RunConfig
from nab.experiments.stages import StageCache
from nab.training import Context, Keeper, Output, resolve_device


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
    """The data of a run, before and after the attacker.

    Attributes:
        full_train: the whole training set.
        clean: the part of it that is trained on, as it was.
        test: the test set, as it was.
        poisoned: what the attacker hands over.
        triggered: the test set with the trigger on every image.
    """

    full_train: Dataset
    clean: Dataset
    test: Dataset
    poisoned: Poisoned
    triggered: Triggered


def make_context(config: RunConfig, *, device: str = "auto", keeper: Keeper | None = None) -> Context:
    """How a run trains, as far as its data does not matter; stages are kept in the user's cache by default."""
    return Context(
        recipe=config.recipe,
        model=config.model,
        width=config.width,
        seed=config.seed,
        device=resolve_device(device),
        keeper=StageCache() if keeper is None else keeper,
    )


def attack_data(config: RunConfig, context: Context, data_root: str | Path | None = None) -> Attacked:
    """The data of a run, attacked as ``config`` says.

    Raises:
        NabError: the data cannot be had, or a setting does not fit it.
    """
    full_train, test = load(config.dataset, data_root)
    check_target(config.target, test)
    clean = take(full_train, config.train_size, config.seed)
    return Attacked(full_train, clean, test, *_attack(config, clean, test, context))


def _attack(config: RunConfig, clean: Dataset, test: Dataset, context: Context) -> tuple[Poisoned, Triggered]:
    """Of the training set only the rows that the attacker changed are kept."""
    attack = config.make_attack()
    settings: dict[str, Any] = {"target": config.target, "seed": config.seed, "label_map": config.label_map}
    choice: dict[str, Any] = {"rate": config.poison_rate, "selection": config.selection}

    def make() -> Output:
        ready = attack.prepare(clean, context, target=config.target)
        poisoned = poison(clean, ready, **settings, **choice)
        triggered = trigger_all(test, ready, **settings)
        is_changed = (poisoned.dataset.images != clean.images).flatten(1).any(1)
        truth = poisoned.truth
        rows = {
            "changed": is_changed.nonzero().squeeze(1),
            "images": poisoned.dataset.images[is_changed],
            "labels": poisoned.dataset.labels,
            "is_poisoned": truth.is_poisoned,
            "is_cover": truth.is_touched & ~truth.is_poisoned,
            "triggered": triggered.images,
            "attack_labels": triggered.attack_labels,
        }
        return Output(rows)

    inputs = {**attack.inputs, **settings, **choice, "clean": clean, "test": test}
    if attack.is_trained:
        inputs |= {"recipe": context.recipe.effective(), "model": context.model, "width": context.width}
    kept = context.keep("poisoned data", inputs, make).tensors
    images = clean.images.clone()
    images[kept["changed"]] = kept["images"]
    truth = GroundTruth(clean.labels, kept["is_poisoned"], kept["is_cover"])
    poisoned = Poisoned(clean.replace(images=images, labels=kept["labels"]), truth)
    return poisoned, Triggered(kept["triggered"], test.labels, kept["attack_labels"])
