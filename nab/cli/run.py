"""The command ``nab run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nab.cli.options import (
    DataRootOption,
    DeviceOption,
    ProfileOption,
    ResultsOption,
    StagesOption,
    method_options,
    parse_settings,
)
from nab.errors import ConfigError


@method_options
def run(
    *,
    profile: ProfileOption = "smoke",
    poison_rate: Annotated[
        float | None, typer.Option(help="Share that is poisoned: of all, or of the target class.")
    ] = None,
    target: Annotated[int | None, typer.Option(help="Class that the backdoor answers.")] = None,
    detection_rate: Annotated[
        str | None, typer.Option(help="Share of the training set that is suspected, or auto.", metavar="SHARE|auto")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the network's first stage: model.width.")] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes of the final training: recipe.epochs. Detectors and labelers have their own."),
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(help="Train on a class-balanced part of this many images: dataset.train_size.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. recipe.lr=0.05 or detector.epochs=8."),
    ] = None,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    results: ResultsOption = "results",
    stages: StagesOption = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store what was deployed in this file, for nab.load_deployed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again even if there is a result.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run again, and make its stages anew too: after a method's code changed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    **methods: str | None,
) -> None:
    """Poison, defend, train and evaluate once. A finished run is read back. Options override the profile."""
    from nab import experiments
    from nab.training.memory import keep_freed_memory

    overrides: dict[str, Any] = {
        **methods,
        "poison_rate": poison_rate,
        "target": target,
        "detection_rate": detection_rate,
        "model.width": width,
        "recipe.epochs": epochs,
        "dataset.train_size": train_size,
        "seed": seed,
    }
    chosen = experiments.load_profile(profile)
    extra = parse_settings(settings or [])
    twice = [key for key in extra if overrides.get(key) is not None]
    if twice:
        raise ConfigError(f"setting {twice[0]}: given twice, by an option of its own and by --set; leave one out")
    overrides |= extra
    config = chosen.config(**overrides)
    if unused := config.unused(key for key, value in overrides.items() if value is not None):
        raise ConfigError(
            f"setting {unused[0]}: nothing in this run looks at it (attack {config.attack.name!r}, defense "
            f"{config.defense.name!r}); leave it out, or choose an attack or a defense that does"
        )
    keep_freed_memory()
    result = experiments.run(
        config,
        profile=chosen.name,
        results=results,
        data_root=data_root,
        device=device,
        force=force or fresh,
        keeper=experiments.StageCache(stages, is_fresh=fresh),
        save=save,
    )
    if as_json:
        print(json.dumps(result.model_dump(mode="json")))
        return
    from nab.report.terminal import print_results

    print_results([result])
