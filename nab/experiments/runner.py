"""One run, from a config to a stored result."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nab.attacks import Triggered
from nab.data import Dataset, GroundTruth
from nab.defenses import Defended, Deployed, defend
from nab.defenses.storage import save_deployed
from nab.errors import ConfigError, ResultError
from nab.evaluation import detection_metrics, evaluate, loss_gap, pseudo_label_metrics, stamp_metrics
from nab.experiments import provenance
from nab.experiments.config import RunConfig
from nab.experiments.meter import Meter
from nab.experiments.monitor import AttackMonitor, answer_examples
from nab.experiments.poisoning import Attacked, attack_data, draw_verified, make_trainer
from nab.experiments.result import RunResult
from nab.experiments.store import ResultStore
from nab.files import try_writing
from nab.paths import RESULTS, local
from nab.paths import data_root as _data_root
from nab.training import Keeper, Output, Trainer, monitored

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    *,
    profile: str = "unnamed",
    studies: Iterable[str] = (),
    results: str | Path = RESULTS,
    data_root: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    keeper: Keeper | None = None,
    save: str | Path | None = None,
) -> RunResult:
    """Run what ``config`` describes and keep the result; a run that is finished is read back.

    Args:
        config: the run.
        profile: the results folder it belongs to; `Profile.run_one` gives its own name.
        studies: the studies for which the run is made; tables choose by them. They are added to those of a result that
            is there.
        results: where the profiles' folders lie: a folder or an fsspec address.
        data_root: see `nab.data.load`.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        force: run again even if there is a result, or one that cannot be read. Stages in the cache are used all the
            same.
        keeper: keeps stages; the user's cache folder by default.
        save: the file in which the deployed defense is stored; see `nab.load_deployed`. The run is then made even if
            there is a result, from the cache where it can be.

    Raises:
        NabError: bad input of any kind; nothing has been trained then. Or a result or file could not be written.
    """
    store = ResultStore(results, profile)
    finished = _finished(store, config, force)
    if finished is not None and not force:
        _check_same_data(finished, store, config, data_root)
        if save is None:
            return store.join(finished, config, studies)
    store.check_writable()
    save = None if save is None else _checked_file(save)
    began = time.perf_counter()
    trainer = make_trainer(config, device=device, keeper=keeper)
    meter = Meter(trainer.device)
    data = attack_data(config, trainer, data_root)
    defended = _defend(config, trainer, data)
    outcome = RunResult(
        hash=config.hash,
        profile=profile,
        studies=sorted({*(finished.studies if finished else ()), *studies}),
        settings=config.settings,
        **_findings(defended, data, config, trainer),
        data=_describe_data(config, data),
        cost=trainer.ledger.seconds,
        wall_seconds=time.perf_counter() - began,
        found_stages=[cost.stage for cost in trainer.ledger.costs.values() if cost.is_found],
        found_makers=_makers(trainer),
        images_per_second={name: stage.images_per_second for name, stage in defended.stages.items()},
        peak_memory_mb=meter.peak_memory_mb(),
        energy_joules=meter.energy_joules(),
        device=provenance.describe_device(trainer),
        versions=provenance.describe_versions(),
        commit=provenance.describe_commit(),
        finished=provenance.now(),
    )
    store.write(outcome, config)
    if save is not None:
        save_deployed(defended.deployed, save, run=config.hash)
    return outcome


def _finished(store: ResultStore, config: RunConfig, force: bool) -> RunResult | None:
    """The stored result; None if there is none, or, with ``force``, if it cannot be read."""
    try:
        return store.read(config)
    except ResultError:
        if force:
            return None
        raise


def _checked_file(save: str | Path) -> Path:
    """The path of a file that can be written."""
    path = local(save, "file to save to")
    try:
        try_writing(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written to ({error.strerror}); name a file in a folder of yours") from None
    return path


def _check_same_data(finished: RunResult, store: ResultStore, config: RunConfig, data_root: str | Path | None) -> None:
    """The hash names a dataset. Where a name does not fix the images, those of the stored run must be these."""
    source = config.make_source()
    if source.fixes(str(finished.data.get("provenance"))):
        return
    parts = zip(("train", "test"), source.load(_data_root(data_root)), strict=True)
    if any(part.fingerprint != finished.data.get(f"{name}_fingerprint") for name, part in parts):
        raise ResultError(
            f"{store.path(config)} is a run on other images than those of {data_root or 'NAB_DATA'}: "
            "replace it with --force, or name another folder with --results"
        )


def _defend(config: RunConfig, trainer: Trainer, data: Attacked) -> Defended:
    """Let the defense train, with what it needs; the monitor is out of its reach."""
    monitor = AttackMonitor(data.test, data.triggered, config.monitor_size, config.make_attack().plants)
    detector, labeler = config.make_detector(), config.make_labeler()
    needs_truth = any("truth" in method.needs for method in (detector, labeler) if method is not None)
    with monitored(monitor) as measured:
        defended = defend(
            config.make_defense(),
            data.poisoned.dataset,
            detector=detector,
            labeler=labeler,
            rate=config.detection_rate,
            threshold=config.detection_threshold,
            trainer=dataclasses.replace(trainer, keeper=_without_list(trainer.keeper)),
            verified=draw_verified(data.clean, config.verified_rate, config.seed),
            encoder=config.make_encoder(),
            truth=data.poisoned.truth if needs_truth else None,
        )
    stages = {
        name: dataclasses.replace(stage, curve=measured.get(stage.purpose, stage.curve))
        for name, stage in defended.stages.items()
    }
    return dataclasses.replace(defended, stages=stages)


def _without_list(keeper: Keeper) -> Keeper:
    """The keeper as a function: a method can have its stages kept, and cannot look through those of the attacker."""

    def keep(stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        return keeper(stage, inputs, make)

    return keep


def _findings(defended: Defended, data: Attacked, config: RunConfig, trainer: Trainer) -> dict[str, Any]:
    """The fields of a result that say what was found."""
    judged, truth = _judge(defended.deployed, data.test, data.triggered, config, trainer), data.poisoned.truth
    return {
        "metrics": judged["metrics"] | _suspicion_metrics(defended, truth),
        "curves": {name: [dict(row) for row in stage.curve] for name, stage in defended.stages.items()},
        "detection_curve": _detection_curve(defended, truth),
        "examples": judged["examples"],
    }


def _judge(
    deployed: Deployed, test: Dataset, triggered: Triggered, config: RunConfig, trainer: Trainer
) -> Mapping[str, Any]:
    """Metrics and examples, kept as a stage under all that the answers depend on."""
    is_attacked = config.make_attack().plants

    def make() -> Output:
        metrics = evaluate(deployed, test, triggered, is_attacked=is_attacked)
        examples = answer_examples(deployed, test, triggered, is_attacked=is_attacked)
        return Output(values={"metrics": metrics, "examples": examples})

    try:
        key = deployed.key
    except TypeError as error:
        log.warning("the evaluation is not kept, for two defenses could not be told apart: %s", error)
        with trainer.ledger.part("evaluation"):
            return make().values
    inputs = {"deployed": key, "test": test, "triggered": triggered if is_attacked else None}
    return trainer.keep("evaluation", inputs, make).values


def _suspicion_metrics(defended: Defended, truth: GroundTruth) -> dict[str, float]:
    found = defended.suspicion
    if found is None:
        return {}
    metrics = detection_metrics(found, truth) | pseudo_label_metrics(found, truth)
    return metrics if defended.is_stamped is None else metrics | stamp_metrics(found, defended.is_stamped, truth)


def _detection_curve(defended: Defended, truth: GroundTruth) -> list[dict[str, float]]:
    """What LGA saw, if a detector noted it and there is poison."""
    losses = defended.notes.get("lga_losses")
    if not isinstance(losses, Tensor) or defended.suspicion is None or not truth.is_poisoned.any():
        return []
    return loss_gap(losses, truth.is_poisoned, defended.suspicion.is_suspect.double().mean().item())


def _makers(trainer: Trainer) -> list[dict[str, Any]]:
    """What made the stages that were found, each once."""
    makers: list[dict[str, Any]] = []
    for cost in trainer.ledger.costs.values():
        if cost.is_found and cost.maker and cost.maker not in makers:
            makers.append(dict(cost.maker))
    return makers


def _describe_data(config: RunConfig, data: Attacked) -> dict[str, Any]:
    return {
        "name": config.dataset.name,
        "classes": list(data.test.classes),
        "train_images": len(data.clean),
        "test_images": len(data.test),
        "train_fingerprint": data.full_train.fingerprint,
        "test_fingerprint": data.test.fingerprint,
        "provenance": config.make_source().provenance(data.full_train, data.test),
    }
