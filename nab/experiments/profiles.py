"""Profiles: named settings, one YAML file each."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nab.attacks import ATTACKS
from nab.defenses import DEFENSES
from nab.detection import DETECTORS
from nab.errors import ConfigError
from nab.experiments.config import RunConfig, make_config
from nab.experiments.result import RunResult
from nab.experiments.run import run
from nab.paths import RESULTS
from nab.pseudolabels import LABELERS
from nab.registry import first_problem, lookup, unknown_name
from nab.selfsupervised import ENCODERS
from nab.training import RECIPES

FOLDER = Path(__file__).parent / "profiles"
REGISTRIES: dict[str, dict[str, type[Any]]] = {
    "attack": ATTACKS,
    "defense": DEFENSES,
    "detector": DETECTORS,
    "labeler": LABELERS,
    "encoder": ENCODERS,
}
METHOD_KINDS = tuple(REGISTRIES)

Block = dict[str, list[Any] | Literal["all"]]


class Profile(BaseModel):
    """The settings of a profile.

    Attributes:
        name: also the name of its results folder.
        summary: one line.
        run: fields of `RunConfig`, methods by name.
        params: per kind of method and name, the hyper-parameters that differ from the source's.
        rates: per attack, the poison rate that differs from the usual one.
        grid: fields and the values that the profile's grid crosses, slowest first; ``"all"`` stands for every name that
            is registered. Or several such mappings, the most important first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    run: dict[str, Any]
    params: dict[str, dict[str, dict[str, Any]]] = {}
    rates: dict[str, float] = {}
    grid: Block | list[Block] = {}

    def config(self, **overrides: Any) -> RunConfig:
        """One run: the profile's settings, with those of ``overrides`` that are not None in their place.

        Args:
            overrides: fields of `RunConfig`, methods by name; a name with dots, such as ``recipe.lr`` or
                ``detector.epochs``, reaches inside.

        Raises:
            ConfigError: a field, name or value is not valid.
        """
        given = {key: value for key, value in overrides.items() if value is not None}
        values = copy.deepcopy(self.run) | {key: value for key, value in given.items() if "." not in key}
        for kind in METHOD_KINDS:
            if kind in values:
                name = str(values[kind])
                values[kind] = {"name": name, "params": copy.deepcopy(self.params.get(kind, {}).get(name, {}))}
        attack = values.get("attack", {}).get("name")
        if "poison_rate" not in given and attack in self.rates:
            values["poison_rate"] = self.rates[attack]
        if isinstance(values.get("recipe"), str):
            values["recipe"] = dataclasses.asdict(lookup("recipe", values["recipe"], RECIPES))
        for key, value in given.items():
            if "." in key:
                _reach(values, key, value)
        for key in values:
            if key not in RunConfig.model_fields:
                raise unknown_name("setting", key, RunConfig.model_fields)
        return make_config(values)

    def run_one(
        self,
        *,
        results: str | Path = RESULTS,
        data_root: str | Path | None = None,
        device: str = "auto",
        force: bool = False,
        **overrides: Any,
    ) -> RunResult:
        """`nab.experiments.run` on `config`, kept in this profile's folder; for the arguments see both."""
        config = self.config(**overrides)
        return run(config, profile=self.name, results=results, data_root=data_root, device=device, force=force)

    def expand(self) -> Iterator[RunConfig]:
        """Every run of the grid once, the most important first (as the YAML lists them)."""
        seen = set()
        for block in self.grid if isinstance(self.grid, list) else [self.grid]:
            values = [self._every(key) if value == "all" else value for key, value in block.items()]
            for combination in itertools.product(*values):
                config = self.config(**dict(zip(block, combination, strict=True)))
                if config.hash not in seen:
                    seen.add(config.hash)
                    yield config

    def _every(self, field: str) -> list[str]:
        """Every registered name for a field."""
        if field not in REGISTRIES:
            raise ConfigError(
                f"profile {self.name!r}, grid, {field}: expected a list of values, got 'all' "
                f"(which is for {', '.join(REGISTRIES)})"
            )
        # An oracle is an ablation, made where a table asks for it.
        return [name for name, method in REGISTRIES[field].items() if not getattr(method, "is_oracle", False)]


def _reach(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``recipe.lr`` or ``detector.epochs`` in nested ``values``."""
    head, _, rest = key.partition(".")
    if head not in (*METHOD_KINDS, "recipe"):
        raise unknown_name("setting", key, [f"{kind}.PARAMETER" for kind in (*METHOD_KINDS, "recipe")])
    if head in METHOD_KINDS and head not in values:
        raise ConfigError(f"setting {key}: this run has no {head}")
    inner = values.setdefault(head, {}) if head == "recipe" else values[head]["params"]
    *path, last = rest.split(".")
    if not isinstance(inner, dict):
        raise ConfigError(f"setting {key}: expected {head} as a mapping, got {inner!r}")
    for part in path:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {key}: {part} is a single value and has no {last}")
    inner[last] = value


def profile_names() -> list[str]:
    """The profiles that ship with the library, smallest first."""
    return ["smoke", "laptop", "paper"]


def load_profile(name: str) -> Profile:
    """The profile ``name``: one that ships with the library, or the path of a YAML file of your own.

    Raises:
        ConfigError: there is no such profile, or the file is not a valid one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        if name.endswith((".yaml", ".yml")):
            raise ConfigError(f"profile file {name} does not exist")
        raise unknown_name("profile", name, profile_names())
    try:
        values = yaml.safe_load(path.read_text())
        if not isinstance(values, dict):
            raise ConfigError(f"profile {path}: expected keys such as summary and run, got {type(values).__name__}")
        values.setdefault("name", path.stem)
        profile = Profile(**values)
        profile.config()
    except yaml.YAMLError as error:
        raise ConfigError(f"profile {path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ConfigError(f"profile {path}: {first_problem(error)}") from None
    return profile
