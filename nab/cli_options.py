"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nab.errors import ConfigError

ProfileOption = Annotated[str, typer.Option(help="smoke, laptop, paper, or the path of a YAML file of your own.")]
ResultsOption = Annotated[
    str, typer.Option(help="Folder or fsspec address of the results; a folder per profile in it.")
]
DataRootOption = Annotated[Path | None, typer.Option(help="Folder that holds the data.", envvar="NAB_DATA")]
StagesOption = Annotated[
    str | None, typer.Option("--stages", help="Folder or fsspec address of the stages.", envvar="NAB_STAGES")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value is read as YAML, so numbers, lists and true become what they look like."""
    return dict(parse_pairs(settings))


def parse_pairs(settings: list[str]) -> list[tuple[str, Any]]:
    """The same where a key may be given several times."""
    import yaml

    parsed = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected KEY=VALUE, got {setting!r}")
        try:
            parsed.append((key, yaml.safe_load(value)))
        except yaml.YAMLError:
            raise ConfigError(f"expected a YAML value for {key}, got {value!r}") from None
    return parsed
