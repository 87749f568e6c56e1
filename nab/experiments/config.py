"""`RunConfig`: one run, described completely; its hash names the result."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from nab.attacks import Attack
from nab.attacks.selection import LABEL_MAPS, SELECTIONS
from nab.checks import check_choice, check_range
from nab.data import Source
from nab.defenses import Defense
from nab.detection import Detector
from nab.digest import SCHEMA, digest
from nab.errors import ConfigError
from nab.methods import KINDS
from nab.models import Architecture
from nab.pseudolabels import Labeler
from nab.registry import first_problem
from nab.selfsupervised import SelfSupervised
from nab.training import Recipe

VERIFIED_RATE = 0.05
"""The authors' share of the training set that is verified for VD."""

DETECTION_RATE = 0.05
"""The paper's share of the training set that is suspected."""

PLANTING = frozenset({"selection", "label_map", "target"})
"""Settings that an attack which plants nothing leaves at their defaults."""

LARGEST_SEED = 2**63 - 1

_STRICT = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

Share = Annotated[float, Field(gt=0, lt=1)]


def _share_or_auto(value: Any) -> Any:
    """What a detection rate was given as; a share may come as text, from a command line."""
    if not isinstance(value, str) or value == "auto":
        return value
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"expected detection_rate as a share in (0, 1) or 'auto', got {value!r}") from None


DetectionRate = Annotated[float | Literal["auto"], BeforeValidator(_share_or_auto)]


class Method(BaseModel):
    """A registered method and its hyper-parameters; those that are not named have the source's values.

    A name alone stands for the method with the source's values.
    """

    model_config = _STRICT

    name: str
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class RunConfig(BaseModel):
    """Everything that was chosen for a run; the machine and the data's fingerprint stand in its result.

    A field that nothing in the run needs is None: there is no labeler without a defense that asks for pseudo labels.

    Attributes:
        dataset: which images.
        attack: who poisons; ``none`` for nobody.
        poison_rate: share of the training set that is poisoned, in (0, 1); of the target class, for clean-label
            attacks. By default the attack's `nab.attacks.Attack.usual_rate`.
        selection: how the poisoned samples are drawn; see `nab.attacks.select_poisons`.
        label_map: what the attacker wants to be answered; see `nab.attacks.attack_labels`.
        target: the class that the backdoor answers, from 0.
        defense: who trains.
        detector: names the suspects.
        detection_rate: share of the training set that is suspected, in (0, 1); ``"auto"`` takes it from the scores.
        detection_threshold: suspects all samples that score above it; replaces the rate.
        labeler: guesses the suspects' labels.
        encoder: the self-supervised training whose features are needed.
        verified_rate: size of the verified set, as a share of the training set, in (0, 1). The set is drawn from the
            clean images before poisoning, as the authors draw theirs, so it may hold clean copies of poisoned images.
        model: the network.
        recipe: how the final network is trained.
        monitor_size: test images that are used for the curve after every epoch; final metrics use all.
        seed: of everything random, from 0 to 2^63 - 1.
    """

    model_config = _STRICT

    dataset: Method = Method(name="digits")
    attack: Method = Method(name="badnets")
    poison_rate: Share | None = None
    selection: str = "balanced"
    label_map: str = "all-to-one"
    target: Annotated[int, Field(ge=0)] = 0
    defense: Method = Method(name="none")
    detector: Method | None = None
    detection_rate: DetectionRate | None = None
    detection_threshold: float | None = None
    labeler: Method | None = None
    encoder: Method | None = None
    verified_rate: Share | None = None
    model: Method = Method(name="resnet18")
    recipe: Method = Method(name="paper")
    monitor_size: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0

    _made: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_and_spell_out(self) -> Self:
        """Check every name, leave out what nothing needs, and write down the hyper-parameters that were not given."""
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("label_map", self.label_map, LABEL_MAPS)
        self._fill(self._attack_fields())
        self._fill(self._suspect_fields(self.make_defense().needs))
        users = (self.make_defense(), self.make_detector(), self.make_labeler())
        needs = frozenset().union(*(user.needs for user in users if user is not None))
        self._fill(
            {
                "verified_rate": (self.verified_rate or VERIFIED_RATE) if "verified" in needs else None,
                "encoder": (self.encoder or Method(name="simclr")) if "features" in needs else None,
            }
        )
        self._fill({kind: _spelled_out(getattr(self, kind), self._make(kind)) for kind in KINDS})
        return self

    def _fill(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # still being made, so not frozen yet

    def _attack_fields(self) -> dict[str, Any]:
        attack = self.make_attack()
        attack.check_label_map(self.label_map)
        if attack.plants:
            return {"poison_rate": self.poison_rate or attack.usual_rate}
        plain = {name: type(self).model_fields[name].default for name in PLANTING}
        return {"poison_rate": None} | plain

    def _suspect_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """Detector, labeler and cut; None for what the defense does not need."""
        absent = dict.fromkeys(("detector", "detection_rate", "detection_threshold", "labeler"))
        if "suspects" not in needs:
            return absent
        if isinstance(self.detection_rate, float):
            check_range("detection_rate", self.detection_rate, 0, 1, include_low=False, include_high=False)
        for field, need in (("detector", "suspects"), ("labeler", "pseudo labels")):
            if need in needs and getattr(self, field) is None:
                names = ", ".join(sorted(KINDS[field].registry))
                raise ConfigError(f"defense {self.defense.name!r} needs a {field}: name one of {names}")
        if self.detection_threshold is not None:
            check_range("detection_threshold", self.detection_threshold, float("-inf"), float("inf"))
        rate = None if self.detection_threshold is not None else self.detection_rate or DETECTION_RATE
        return absent | {
            "detector": self.detector,
            "detection_rate": rate,
            "detection_threshold": self.detection_threshold,
            "labeler": self.labeler if "pseudo labels" in needs else None,
        }

    def _make(self, kind: str) -> Any:
        """The run's method of a kind, made once; None if there is none."""
        if kind not in self._made:
            method = getattr(self, kind)
            self._made[kind] = None if method is None else KINDS[kind].make(method.name, method.params)
        return self._made[kind]

    def make_source(self) -> Source:
        """Where the images come from."""
        source: Source = self._make("dataset")
        return source

    def make_attack(self) -> Attack:
        """The attack; it may have to be prepared."""
        attack: Attack = self._make("attack")
        return attack

    def make_defense(self) -> Defense:
        """The defense."""
        defense: Defense = self._make("defense")
        return defense

    def make_detector(self) -> Detector | None:
        """The detector; None if nothing needs one."""
        detector: Detector | None = self._make("detector")
        return detector

    def make_labeler(self) -> Labeler | None:
        """The labeler; None if nothing needs one."""
        labeler: Labeler | None = self._make("labeler")
        return labeler

    def make_encoder(self) -> SelfSupervised | None:
        """The self-supervised training; None if nothing needs one."""
        encoder: SelfSupervised | None = self._make("encoder")
        return encoder

    def make_architecture(self) -> Architecture:
        """The network, without weights."""
        architecture: Architecture = self._make("model")
        return architecture

    def make_recipe(self) -> Recipe:
        """How the final network is trained."""
        recipe: Recipe = self._make("recipe")
        return recipe

    def unused(self, settings: Iterable[str]) -> list[str]:
        """Those of the settings, such as ``detector.epochs``, that nothing in the run looks at."""
        absent = {field for field in type(self).model_fields if getattr(self, field) is None}
        if not self.make_attack().plants:
            absent |= PLANTING
        return [setting for setting in settings if setting.partition(".")[0] in absent]

    @property
    def settings(self) -> dict[str, Any]:
        """The whole run as JSON has it; what a result stores."""
        return self.model_dump(mode="json")

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that name the run.

        They follow from `nab.digest.describe` of what was chosen. A field that has its default is left out, so that a
        field added later changes no hash; a changed default raises `nab.digest.SCHEMA`.

        Raises:
            ConfigError: a method's source code cannot be read, so that two versions of it could not be told apart.
        """
        values = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in KINDS and getattr(self, name) not in (None, field.default)
        }
        methods = {kind: self._make(kind) for kind in KINDS if getattr(self, kind) is not None}
        try:
            return digest({"schema": SCHEMA, **values, **methods})[:16]
        except TypeError as error:
            raise ConfigError(f"this run has no name of its own: {error}; write the method in a file") from None


def _spelled_out(method: Method | None, made: Any) -> Method | None:
    """The method with all its hyper-parameters, as JSON gives them back: tuples as lists.

    Raises:
        ConfigError: JSON does not know a value.
    """
    if method is None:
        return None
    try:
        text = json.dumps(dataclasses.asdict(made), ensure_ascii=False)
        text.encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise ConfigError(f"{method.name!r} has a parameter that a result cannot hold: {error}") from None
    return Method(name=method.name, params=json.loads(text))


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked `RunConfig`.

    Raises:
        ConfigError: a value is unknown or out of its range; the message names it.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from None
