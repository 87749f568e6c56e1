"""One run, from a config to a stored result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from nab.attacks import Triggered, check_target, poison, trigger_all
from nab.data import SOURCES, Dataset, GroundTruth, load, provenance, stratified_index, take
from nab.defenses import Defended
from nab.errors import ResultError
from nab.evaluation import attack_metrics, detection_metrics, evaluate, loss_gap, pseudo_label_metrics
from nab.experiments import result as describe
from nab.experiments.config import RunConfig
from nab.experiments.result import RunResult
from nab.experiments.store import ResultStore
from nab.paths import RESULTS
from nab.training import Context, Monitor, Predictor, Runtime, resolve_device

EXAMPLES = 8


def run(
    config: RunConfig,
    *,
    profile: str = "unnamed",
    results: str | Path = RESULTS,
    data_root: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> RunResult:
    """Run what ``config`` describes and keep the result; a run that is finished is read back.

    Args:
        config: the run.
        profile: the results folder it belongs to; `Profile.run_one` gives its own name.
        results: where the profiles' folders lie.
        data_root: see `nab.data.load`.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        force: run again even if there is a result, or a damaged one.

    Raises:
        NabError: bad input of any kind; nothing has been trained then.
    """
    store = ResultStore(results, profile)
    finished = None if force else store.read(config)
    if finished is not None:
        _check_same_data(finished, store, config, data_root)
        return finished
    store.check_writable()
    chosen = resolve_device(device)
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    attack, defense = config.make_attack(), config.make_defense()

    full_train, test = load(config.dataset, data_root)
    check_target(config.target, test)
    clean = take(full_train, config.train_size, config.seed)
    poisoned = poison(
        clean, attack, rate=config.poison_rate, target=config.target, seed=config.seed, selection=config.selection
    )
    triggered = trigger_all(test, attack, target=config.target, seed=config.seed)
    seconds["data"] = time.perf_counter() - start

    context = Context(
        recipe=config.recipe,
        model=config.model,
        width=config.width,
        seed=config.seed,
        device=chosen,
        verified=_verified(clean, config),
        truth=poisoned.truth if _needs_truth(config) else None,
        seconds=seconds,
    )
    defended = defense.defend(poisoned.dataset, context, _monitor(test, triggered, config.monitor_size))
    with context.stage("evaluation"):
        metrics = evaluate(defended.predictor, test, triggered)
    metrics |= _suspicion_metrics(defended, poisoned.truth)
    gap = []
    if "lga_losses" in context.notes:
        gap = loss_gap(context.notes["lga_losses"], poisoned.truth.is_poisoned, config.detection_rate or 0.0)
    runtime = Runtime.choose(chosen, config.recipe.precision, config.width)
    examples = _examples(defended.predictor, test, triggered)
    seconds["total"] = time.perf_counter() - start
    outcome = RunResult(
        hash=config.hash,
        profile=profile,
        config=config,
        metrics=dict(metrics),
        curve=[dict(row) for row in defended.curve],
        detection_curve=[dict(row) for row in gap],
        examples=examples,
        data=_describe_data(config, full_train, test, clean),
        seconds=seconds,
        images_per_second=defended.images_per_second,
        peak_memory_mb=describe.peak_memory_mb(chosen),
        device=describe.describe_device(runtime),
        versions=describe.describe_versions(),
        commit=describe.describe_commit(),
        finished=describe.now(),
    )
    store.write(outcome)
    return outcome


def _check_same_data(finished: RunResult, store: ResultStore, config: RunConfig, data_root: str | Path | None) -> None:
    """The hash names a dataset; where a name does not fix the images, those of the stored run must be these."""
    if SOURCES[config.dataset].is_fixed:
        return
    train, test = load(config.dataset, data_root)
    if (train.fingerprint, test.fingerprint) != (finished.data["train_fingerprint"], finished.data["test_fingerprint"]):
        raise ResultError(
            f"{store.path(config)} is a run on other images than those of {data_root or 'NAB_DATA'}: "
            "run again with --force, or name another folder with --results"
        )


def _verified(clean: Dataset, config: RunConfig) -> Dataset | None:
    if config.verified_rate is None:
        return None
    return clean.subset(stratified_index(clean.labels, config.verified_rate, config.seed, "verified data"))


def _needs_truth(config: RunConfig) -> bool:
    """Whether the detector or the labeler is an oracle; nobody else is ever handed the truth."""
    return config.detector is not None and (config.make_detector().is_oracle or config.make_labeler().is_oracle)


def _monitor(test: Dataset, triggered: Triggered, size: int) -> Monitor:
    """Accuracy and attack success on a fixed part of the test set, with the stamp and without."""
    index = torch.linspace(0, len(test) - 1, min(size, len(test))).long()
    clean, attacked = test.images[index], triggered.images[index]
    part = Triggered(attacked, triggered.true_labels[index], triggered.attack_labels[index])

    def monitor(predictor: Predictor) -> dict[str, float]:
        row = attack_metrics(predictor.predict(clean), predictor.predict(attacked), part)
        if predictor.stamp is not None:
            bare = predictor.with_stamp(None)
            plain = attack_metrics(bare.predict(clean), bare.predict(attacked), part)
            row |= {f"{name}_unstamped": value for name, value in plain.items()}
        return row

    return monitor


def _suspicion_metrics(defended: Defended, truth: GroundTruth) -> dict[str, float]:
    found = defended.suspicion
    if found is None:
        return {}
    return detection_metrics(found.scores, found.is_suspect, truth) | pseudo_label_metrics(
        found.pseudo_labels, found.is_suspect, found.is_stamped, truth
    )


def _examples(predictor: Predictor, test: Dataset, triggered: Triggered) -> list[dict[str, int]]:
    """Predictions for the first test image of each class but the target's."""
    eligible = triggered.is_eligible.nonzero().squeeze(1)
    firsts = {int(triggered.true_labels[i]): int(i) for i in reversed(eligible.tolist())}
    index = torch.tensor(sorted(firsts.values())[:EXAMPLES], dtype=torch.long)
    views = {"clean": test.images[index], "triggered": triggered.images[index]}
    answers = {name: predictor.predict(images) for name, images in views.items()}
    if predictor.stamp is not None:
        bare = predictor.with_stamp(None)
        answers |= {f"{name}_unstamped": bare.predict(images) for name, images in views.items()}
    return [
        {"index": int(i), "true_label": int(test.labels[i])}
        | {name: int(labels[k]) for name, labels in answers.items()}
        for k, i in enumerate(index)
    ]


def _describe_data(config: RunConfig, full_train: Dataset, test: Dataset, clean: Dataset) -> dict[str, Any]:
    return {
        "name": config.dataset,
        "classes": list(test.classes),
        "train_images": len(clean),
        "test_images": len(test),
        "train_fingerprint": full_train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "provenance": provenance(config.dataset, full_train, test),
    }
