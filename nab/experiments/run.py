"""One run, from a config to a stored result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nab.attacks import Triggered
from nab.data import SOURCES, Dataset, GroundTruth, load, provenance, stratified_index
from nab.defenses import Defended
from nab.errors import ResultError
from nab.evaluation import detection_metrics, evaluate, loss_gap, pseudo_label_metrics
from nab.experiments import result as describe
from nab.experiments.config import RunConfig
from nab.experiments.meter import Meter
from nab.experiments.monitor import AttackMonitor, predict_examples
from nab.experiments.poisoning import Attacked, attack_data, make_context
from nab.experiments.result import RunResult
from nab.experiments.store import ResultStore
from nab.paths import RESULTS
from nab.training import Context, Keeper, Output, Predictor, Runtime

EVALUATION_VERSION = 1
"""Raised when a metric's definition changes, so that evaluations kept before are not used."""


def run(
    config: RunConfig,
    *,
    profile: str = "unnamed",
    results: str | Path = RESULTS,
    data_root: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    keeper: Keeper | None = None,
) -> RunResult:
    """Run what ``config`` describes and keep the result; a run that is finished is read back.

    Args:
        config: the run.
        profile: the results folder it belongs to; `Profile.run_one` gives its own name.
        results: where the profiles' folders lie: a folder or an fsspec address.
        data_root: see `nab.data.load`.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        force: run again even if there is a result, or a damaged one. Stages in the cache are used all the same.
        keeper: keeps stages; the user's cache folder by default.

    Raises:
        NabError: bad input of any kind; nothing has been trained then.
    """
    store = ResultStore(results, profile)
    finished = None if force else store.read(config)
    if finished is not None:
        _check_same_data(finished, store, config, data_root)
        return finished
    store.check_writable()
    context = make_context(config, device=device, keeper=keeper)
    meter = Meter(context.device)
    defense = config.make_defense()
    with context.stage("data"):
        data = attack_data(config, context, data_root)
    poisoned, triggered, test = data.poisoned, data.triggered, data.test
    context = dataclasses.replace(
        context,
        verified=_verified(data.clean, config),
        encoder=config.make_encoder(),
        truth=poisoned.truth if _needs_truth(config) else None,
        monitor=AttackMonitor(test, triggered, config.monitor_size),
    )
    defended = defense.defend(poisoned.dataset, context)
    with context.stage("evaluation"):
        judged = _judge(defended.predictor, test, triggered, context)
    metrics = judged["metrics"] | _suspicion_metrics(defended, poisoned.truth)
    gap = []
    if defended.suspicion is not None and "lga_losses" in context.notes:
        share = defended.suspicion.is_suspect.double().mean().item()
        gap = loss_gap(context.notes["lga_losses"], poisoned.truth.is_poisoned, share)
    runtime = Runtime.choose(context.device, config.recipe.precision, config.width)
    outcome = RunResult(
        hash=config.hash,
        profile=profile,
        config=config,
        metrics=dict(metrics),
        curve=[dict(row) for row in defended.curve],
        detection_curve=[dict(row) for row in gap],
        examples=judged["examples"],
        data=_describe_data(config, data),
        seconds=context.clock.seconds | {"total": context.clock.now, "passed": context.clock.passed},
        found_stages=context.clock.found,
        found_makers=[dict(maker) for maker in context.clock.makers],
        images_per_second=defended.images_per_second,
        peak_memory_mb=meter.peak_memory_mb(),
        energy_joules=meter.energy_joules(),
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


def _judge(predictor: Predictor, test: Dataset, triggered: Triggered, context: Context) -> Mapping[str, Any]:
    """Metrics and examples."""

    def make() -> Output:
        metrics, examples = evaluate(predictor, test, triggered), predict_examples(predictor, test, triggered)
        return Output(values={"metrics": metrics, "examples": examples})

    inputs = {"version": EVALUATION_VERSION, "predictor": predictor.inputs, "test": test, "triggered": triggered}
    return context.keep("evaluation", inputs, make).values


def _suspicion_metrics(defended: Defended, truth: GroundTruth) -> dict[str, float]:
    found = defended.suspicion
    if found is None:
        return {}
    return detection_metrics(found.scores, found.is_suspect, truth) | pseudo_label_metrics(
        found.pseudo_labels, found.is_suspect, found.is_stamped, truth
    )


def _describe_data(config: RunConfig, data: Attacked) -> dict[str, Any]:
    full_train, test, clean = data.full_train, data.test, data.clean
    return {
        "name": config.dataset,
        "classes": list(test.classes),
        "train_images": len(clean),
        "test_images": len(test),
        "train_fingerprint": full_train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "provenance": provenance(config.dataset, full_train, test),
    }
