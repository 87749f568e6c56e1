"""`RunResult`: what a run found, how, where, and what it cost."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

from nab.digest import SCHEMA
from nab.methods import KINDS


class RunResult(BaseModel):
    """One finished run; one JSON file. Reading it needs none of the methods that it names.

    Attributes:
        schema_version: `nab.digest.SCHEMA` when it was written.
        hash: of the run's config.
        profile: the results folder it belongs to.
        studies: the studies of the profile for which it was made; none for a run that was made by hand.
        settings: the whole run, as `RunConfig` has it; methods are mappings with ``name`` and ``params``.
        metrics: final values in percent, named as in `nab.evaluation`; counts have names that end in ``_count``.
        curves: by the name of the training, one row per epoch; every training that the defense went through.
        detection_curve: what LGA saw, epoch by epoch, if it was the detector.
        examples: for some test images, the true label and the answers: with and without trigger, by every variant.
        data: name, number of images, fingerprints, and whether those are the published ones.
        cost: seconds of every stage, each as when it was made. A stage that several parts of the run share counts
            once. Work that is kept nowhere counts as it was done in this run.
        wall_seconds: what this run took.
        found_stages: the stages that were read from the cache.
        found_makers: what made those stages, each once: commit, version of torch, threads.
        images_per_second: in the trainings, by name, monitoring included.
        peak_memory_mb: of the process (``host``) and on the GPU (``device``), in MiB, during this run.
        energy_joules: used during this run by the processors (``host``) and the GPU (``device``) with all that ran on
            them; left out where it cannot be read.
        device: what computed: name, threads, precision. This field, ``versions`` and ``commit`` describe the process
            that finished the run.
        versions: of the packages on which the numbers may depend.
        commit: of the library's checkout; ends in ``+changes`` if its code was changed since; None outside a checkout.
        finished: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    schema_version: int = SCHEMA
    hash: str
    profile: str
    studies: list[str] = []
    settings: dict[str, Any]
    metrics: dict[str, float | None]
    curves: dict[str, list[dict[str, float | None]]] = {}
    detection_curve: list[dict[str, float | None]] = []
    examples: list[dict[str, int]] = []
    data: dict[str, Any]
    cost: dict[str, float]
    wall_seconds: float
    found_stages: list[str] = []
    found_makers: list[dict[str, Any]] = []
    images_per_second: dict[str, float] = {}
    peak_memory_mb: dict[str, float]
    energy_joules: dict[str, float] = {}
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    finished: str

    @field_validator("settings")
    @classmethod
    def _describe_a_run(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for kind in KINDS:
            method = settings.get(kind)
            if method is not None and not _is_method(method):
                raise ValueError(f"expected {kind} as a mapping with name and params")
        if not isinstance(settings.get("seed"), int):
            raise ValueError("expected a seed")
        for name in ("dataset", "attack", "defense", "model", "recipe"):
            if settings.get(name) is None:
                raise ValueError(f"expected a {name}")
        if not isinstance(settings.get("poison_rate"), float | int | None):
            raise ValueError("expected a poison_rate as a share or null")
        return settings

    @field_validator("device")
    @classmethod
    def _name_a_device(cls, device: dict[str, Any]) -> dict[str, Any]:
        for name in ("type", "name"):
            if not isinstance(device.get(name), str):
                raise ValueError(f"expected a device with a {name}")
        return device

    def method(self, kind: str) -> str:
        """The name of the run's method of a kind, ``"attack"`` for example; empty if there is none."""
        method = self.settings.get(kind)
        return str(method["name"]) if method else ""

    def params(self, kind: str) -> dict[str, Any]:
        """The hyper-parameters of the run's method of a kind; empty if there is none."""
        method = self.settings.get(kind)
        return dict(method["params"]) if method else {}

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self.settings["seed"])

    @property
    def seconds(self) -> float:
        """What the run cost: the sum over its stages."""
        return sum(self.cost.values())

    @property
    def curve(self) -> list[dict[str, float | None]]:
        """The curve of the last training, whose network was deployed; empty if there was none."""
        return list(self.curves.values())[-1] if self.curves else []

    @field_serializer(
        "metrics",
        "curves",
        "detection_curve",
        "cost",
        "wall_seconds",
        "images_per_second",
        "peak_memory_mb",
        "energy_joules",
    )
    def _rounded(self, value: Any) -> Any:
        return _round(value)


def _is_method(value: Any) -> bool:
    """Whether ``value`` is what `nab.experiments.Method` becomes in JSON."""
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("params"), dict)


def _round(value: Any) -> Any:
    """Six significant digits everywhere, and null for what is not a number."""
    if isinstance(value, dict):
        return {key: _round(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_round(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
