"""Profiles: named settings, one YAML file each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nab.checks import check_range
from nab.errors import ConfigError
from nab.experiments.config import Method, RunConfig, make_config
from nab.experiments.result import RunResult
from nab.experiments.runner import run
from nab.experiments.store import check_profile_name
from nab.methods import KINDS
from nab.paths import RESULTS, local
from nab.registry import first_problem, lookup, unknown_name

FOLDER = Path(__file__).parent / "profiles"

Values = list[Any] | Literal["all"]


class Study(BaseModel):
    """Runs that belong together, and that tables find by the study's name.

    Attributes:
        name: of the study.
        runs: fields of `RunConfig`, dots included (see `Profile.config`), and lists of values. All combinations are
            run; the last field varies fastest. ``"all"`` stands for every registered name. Or several such mappings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    runs: dict[str, Values] | list[dict[str, Values]]

    @property
    def blocks(self) -> list[dict[str, Values]]:
        """The mappings, one or several."""
        return self.runs if isinstance(self.runs, list) else [self.runs]


class Profile(BaseModel):
    """The settings of a profile.

    A method is a name, or a mapping with its ``name`` and the hyper-parameters that differ from the source's.

    Attributes:
        name: also the name of its results folder.
        summary: one line.
        run: fields of `RunConfig`.
        params: per kind of method and name, the hyper-parameters that differ from the source's.
        rates: per attack, the poison rate that differs from the usual one.
        grid: the profile's studies, the most important first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    run: dict[str, Any]
    params: dict[str, dict[str, dict[str, Any]]] = {}
    rates: dict[str, float] = {}
    grid: list[Study] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_profile_name(self.name)
        for kind, methods in self.params.items():
            for name, params in methods.items():
                lookup("kind of method", kind, KINDS).make(name, params)
        for attack, rate in self.rates.items():
            lookup("attack", attack, KINDS["attack"].registry)
            check_range(f"rate of {attack}", rate, 0, 1, include_low=False, include_high=False)
        for field in itertools.chain.from_iterable(block for study in self.grid for block in study.blocks):
            _check_field(field)
        return self

    def config(self, **overrides: Any) -> RunConfig:
        """One run: the profile's settings, with those of ``overrides`` that are not None in their place.

        Args:
            overrides: fields of `RunConfig`. A name with dots, such as ``recipe.lr`` or ``detector.epochs``, is a
                hyper-parameter of the run's method.

        Raises:
            ConfigError: a field, name or value is not valid.
        """
        given = {key: value for key, value in overrides.items() if value is not None}
        values = copy.deepcopy(self.run) | {key: value for key, value in given.items() if "." not in key}
        for key in (*values, *given):
            _check_field(key)
        for kind in KINDS:
            named = values.get(kind, RunConfig.model_fields[kind].default)
            if named is not None:
                values[kind] = self._method(kind, named)
        attack = (values.get("attack") or {}).get("name")
        if "poison_rate" not in given and attack in self.rates:
            values["poison_rate"] = self.rates[attack]
        for key, value in given.items():
            if "." in key:
                _reach(values, key, value)
        config = make_config(values)
        for kind in {key.partition(".")[0] for key in given} & KINDS.keys():
            if getattr(config, kind) is None and values.get(kind):  # a mistake, though nothing in the run needs it
                KINDS[kind].make(values[kind]["name"], values[kind]["params"])
        return config

    def _method(self, kind: str, value: Any) -> dict[str, Any]:
        """A method's name and hyper-parameters; those that ``value`` does not give are the profile's."""
        if isinstance(value, Method):
            value = {"name": value.name, **value.params}
        given = dict(value) if isinstance(value, Mapping) else {"name": value}
        if "name" not in given:
            raise ConfigError(f"setting {kind}: expected a name, or a mapping with a name, got {value!r}")
        name = str(given.pop("name"))
        return {"name": name, "params": copy.deepcopy(self.params.get(kind, {}).get(name, {})) | given}

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

    def expand(self) -> Iterator[tuple[RunConfig, tuple[str, ...]]]:
        """Every run of the grid once, the most important first, and the studies that it belongs to.

        Raises:
            ConfigError: a run of the grid is not valid.
        """
        found: dict[str, tuple[RunConfig, dict[str, None]]] = {}
        for study in self.grid:
            for block in study.blocks:
                values = [self._every(key) if value == "all" else value for key, value in block.items()]
                for combination in itertools.product(*values):
                    config = self.config(**dict(zip(block, combination, strict=True)))
                    found.setdefault(config.hash, (config, {}))[1][study.name] = None
        for config, studies in found.values():
            yield config, tuple(studies)

    def _every(self, field: str) -> list[str]:
        """Every registered name for a field, but oracles: an ablation asks for those by name."""
        if field not in KINDS:
            raise ConfigError(
                f"profile {self.name!r}, grid, {field}: expected a list of values, got 'all' "
                f"(which is for {', '.join(KINDS)})"
            )
        names = KINDS[field].registry
        return [name for name in names if "truth" not in getattr(KINDS[field].make(name), "needs", ())]


def _check_field(key: object) -> None:
    """Raise ``ConfigError`` unless ``key`` is a field of `RunConfig`, or names a hyper-parameter by its dots."""
    head, dot, _ = str(key).partition(".")
    if dot and head not in KINDS:
        raise unknown_name("setting", key, [f"{kind}.PARAMETER" for kind in KINDS])
    if head not in RunConfig.model_fields:
        raise unknown_name("setting", key, RunConfig.model_fields)


def _reach(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the hyper-parameter that ``key`` names, such as ``recipe.lr``, in nested ``values``."""
    kind, *path, last = key.split(".")
    if values.get(kind) is None:
        raise ConfigError(f"setting {key}: this run names no {kind}")
    inner = values[kind]["params"]
    for part in path:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {key}: {part} is a single value and has no {last}")
    inner[last] = value


def profile_names() -> list[str]:
    """The profiles that ship with the library, smallest first."""
    return ["smoke", "laptop", "paper"]


def load_profile(name: str | Path) -> Profile:
    """The profile ``name``: one that ships with the library, or the path of a YAML file of your own.

    Raises:
        ConfigError: there is no such profile, or the file is not a valid one.
    """
    is_file = str(name).endswith((".yaml", ".yml"))
    if not is_file and name not in profile_names():
        raise unknown_name("profile", name, profile_names())
    path = local(name, "profile file") if is_file else FOLDER / f"{name}.yaml"
    try:
        values = _read_yaml(path)
        profile = Profile(**{"name": path.stem} | values)
        profile.config()
    except ValidationError as error:
        raise ConfigError(f"profile {path}: {first_problem(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"profile {path}: {error}") from None
    return profile


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError("the file is not UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or number that there is not, for example
        raise ConfigError(f"the file is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"expected keys such as summary and run, got {type(values).__name__}")
    return values
