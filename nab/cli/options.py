"""Options that several commands share, and the values of settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nab.errors import ConfigError
from nab.methods import KINDS

ProfileOption = Annotated[str, typer.Option(help="smoke, laptop, paper, or the path of a YAML file of your own.")]
ResultsOption = Annotated[
    str, typer.Option(help="Folder or fsspec address of the results; a folder per profile in it.")
]
DataRootOption = Annotated[Path | None, typer.Option(help="Folder that holds the data.", envvar="NAB_DATA")]
StagesOption = Annotated[
    str | None, typer.Option("--stages", help="Folder or fsspec address of the stages.", envvar="NAB_STAGES")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]

Command = TypeVar("Command", bound=Callable[..., None])

_POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""Numbers such as 1e-3, which YAML takes for words if they have no point."""


def method_options(command: Command) -> Command:
    """The command, whose ``**methods`` become one option for every kind of method in `nab.methods.KINDS`."""
    first, *others, _ = inspect.signature(command, eval_str=True).parameters.values()
    kinds = [
        inspect.Parameter(
            kind.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(metavar="NAME", help=f"{kind.description.capitalize()}: see `nab list {kind.plural}`."),
            ],
        )
        for kind in KINDS.values()
    ]
    command.__signature__ = inspect.Signature([first, *kinds, *others])  # type: ignore[attr-defined]
    return command


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value is read as YAML, so numbers, lists and true become what they look like."""
    return dict(parse_pairs(settings))


def parse_pairs(settings: list[str]) -> list[tuple[str, Any]]:
    """The same where a key may be given several times."""
    parsed = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"expected KEY=VALUE, got {setting!r}")
        parsed.append((key, _parse_value(key, value)))
    return parsed


def _parse_value(key: str, text: str) -> Any:
    import yaml

    if _POWER_OF_TEN.fullmatch(text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a date that there is not, for example
        raise ConfigError(f"expected a YAML value for {key}, got {text!r}") from None
