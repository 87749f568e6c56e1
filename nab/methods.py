"""The one table of kinds of methods. Configuration, command line, lists, profiles and pages are made from it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from nab.registry import build as _build
from nab.registry import lookup


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of method.

    Attributes:
        name: the field of `nab.experiments.RunConfig`.
        plural: what `nab list` calls it.
        module: where its registry is.
        attribute: the registry's name there: a mapping from names to frozen dataclasses, or, for recipes, to instances.
        description: one line.
    """

    name: str
    plural: str
    module: str
    attribute: str
    description: str

    @property
    def registry(self) -> Mapping[str, Any]:
        """Every registered method by name."""
        registry: Mapping[str, Any] = getattr(importlib.import_module(self.module), self.attribute)
        return registry

    def make(self, name: str, params: Mapping[str, Any] | None = None) -> Any:
        """The method ``name`` with the hyper-parameters ``params``; all others have the source's values.

        Raises:
            ConfigError: the name is not registered, or a parameter does not exist or is not valid.
        """
        registry = self.registry
        found = lookup(self.name, name, registry)
        if isinstance(found, type):
            return _build(self.name, name, registry, params)
        whole = dataclasses.asdict(found) | dict(params or {})  # its values are the defaults
        return _build(self.name, name, {name: type(found)}, whole)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("dataset", "datasets", "nab.data", "DATASETS", "which images"),
        Kind("attack", "attacks", "nab.attacks", "ATTACKS", "who poisons them"),
        Kind("defense", "defenses", "nab.defenses", "DEFENSES", "who trains"),
        Kind("detector", "detectors", "nab.detection", "DETECTORS", "names suspects, for defenses that need them"),
        Kind("labeler", "labelers", "nab.pseudolabels", "LABELERS", "guesses labels, for defenses that need them"),
        Kind("encoder", "encoders", "nab.selfsupervised", "ENCODERS", "trains features, for methods that need them"),
        Kind("model", "models", "nab.models", "MODELS", "the network"),
        Kind("recipe", "recipes", "nab.training", "RECIPES", "how the network is trained"),
    )
}


def make(kind: str, name: str, params: Mapping[str, Any] | None = None) -> Any:
    """The method ``name`` of a kind; see `Kind.make`.

    Raises:
        ConfigError: the kind or the name is not known, or a parameter is not valid.
    """
    return lookup("kind of method", kind, KINDS).make(name, params)
