"""`RunConfig`: one run, described completely; its hash names the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nab.attacks import ATTACKS, Attack, make_attack
from nab.attacks.selection import LABEL_MAPS, SELECTIONS
from nab.checks import check_choice, check_range
from nab.data import SOURCES
from nab.defenses import DEFENSES, NAB, Defense
from nab.detection import DETECTORS, Detector, Rate, make_detector
from nab.errors import ConfigError
from nab.models import MODELS
from nab.pseudolabels import LABELERS, Labeler, make_labeler
from nab.registry import build, first_problem, lookup
from nab.selfsupervised import ENCODERS, SelfSupervised, make_encoder
from nab.training import RECIPES, Recipe

VERSION = 1
"""Part of every hash; raised when the same settings come to mean something else."""

VERIFIED_RATE = 0.05
"""Of the authors: five percent of the training set are verified for VD."""

SUSPECT_FIELDS = ("detector", "labeler", "encoder", "detection_rate", "detection_threshold", "verified_rate")
"""None for a defence that takes no suspects."""

CANONICAL_DEFAULTS = {"poison_rate": 0.1}
"""What is left out of the hash where it is not the field's own default."""

BESIDE_DEFENSE = ("detector", "labeler", "detection_rate", "detection_threshold")
"""Fields of defences that a config has beside the defence, not among its hyper-parameters."""

_STRICT = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

Share = Annotated[float, Field(gt=0, lt=1)]


class Method(BaseModel):
    """A registered method and its hyper-parameters; those not named have the source's values."""

    model_config = _STRICT

    name: str
    params: dict[str, Any] = {}


DEFAULT_ENCODER = Method(name="simclr")
"""The paper's."""


def _usual_rate(attack: Method | None) -> float:
    """The attack's own; an unknown attack is told of later."""
    return ATTACKS[attack.name].usual_rate if attack is not None and attack.name in ATTACKS else 0.1


class RunConfig(BaseModel):
    """Everything that was chosen for a run; the machine and the data's fingerprint stand in its result.

    Attributes:
        dataset: a key of `nab.data.SOURCES`.
        train_size: a class-balanced part of the training set; all of it if None.
        attack: who poisons.
        poison_rate: share of the training set that is poisoned (of the target class, for clean-label attacks); the one
            that is usual for the attack by default.
        selection: how the poisoned samples are drawn; see `nab.attacks.select_poisons`.
        label_map: what the attacker wants to be answered; see `nab.attacks.attack_labels`.
        target: the class that the backdoor answers.
        defense: who trains.
        detector: of a defence that takes suspects, else None; so are the next five.
        labeler: who guesses the suspects' labels.
        encoder: the self-supervised training whose features a detector or a labeler needs.
        detection_rate: share of the training set that is suspected; ``"auto"`` takes it from the scores.
        detection_threshold: in place of the rate, suspects all samples that score above it.
        verified_rate: size of the verified set, as a share of the training set, for methods that need one. It is
            drawn from the clean images before poisoning, as the authors draw theirs, so it may hold clean copies of
            poisoned images.
        model: a key of `nab.models.MODELS`.
        width: channels of the network's first stage.
        recipe: how the final network is trained; or a key of `nab.training.RECIPES`.
        monitor_size: test images used for the curve after every epoch; final metrics use all.
        seed: of everything random.
    """

    model_config = _STRICT

    dataset: str = "digits"
    train_size: Annotated[int, Field(ge=1)] | None = None
    attack: Method = Method(name="badnets")
    poison_rate: Share = Field(default_factory=lambda data: _usual_rate(data.get("attack")))
    selection: str = "balanced"
    label_map: str = "all-to-one"
    target: Annotated[int, Field(ge=0)] = 0
    defense: Method = Method(name="none")
    detector: Method | None = None
    labeler: Method | None = None
    encoder: Method | None = None
    detection_rate: float | Literal["auto"] | None = None
    detection_threshold: float | None = None
    verified_rate: Share | None = None
    model: str = "resnet18"
    width: Annotated[int, Field(ge=1)] = 64
    recipe: Recipe = Recipe()
    monitor_size: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_not_used(cls, values: Any) -> Any:
        """A defence without suspects has no detector, so that its hash does not depend on one."""
        if not isinstance(values, dict):
            return values
        defense = values.get("defense", cls.model_fields["defense"].default)
        name = defense.get("name") if isinstance(defense, dict) else getattr(defense, "name", None)
        if name in DEFENSES and not DEFENSES[name].takes_suspects:
            values = values | dict.fromkeys(SUSPECT_FIELDS)
        return values

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe_by_name(cls, value: Any) -> Any:
        return lookup("recipe", value, RECIPES) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_and_spell_out(self) -> Self:
        """Check every name, and write down the hyper-parameters that were not given: a stored config is complete."""
        lookup("dataset", self.dataset, SOURCES)
        lookup("model", self.model, MODELS)
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("label_map", self.label_map, LABEL_MAPS)
        if isinstance(self.detection_rate, float):
            check_range("detection_rate", self.detection_rate, 0, 1, include_low=False, include_high=False)
        attack, defense = self.make_attack(), self.make_defense()
        attack.check_label_map(self.label_map)
        filled: dict[str, Any] = {"attack": _spelled_out(self.attack, attack)}
        filled["defense"] = _spelled_out(self.defense, defense)
        if self.detector is not None and self.labeler is not None:
            detector, labeler = self.make_detector(), self.make_labeler()
            filled["detector"] = _spelled_out(self.detector, detector)
            filled["labeler"] = _spelled_out(self.labeler, labeler)
            filled["encoder"] = None
            if detector.needs_features or labeler.needs_features:
                encoder = self.encoder or DEFAULT_ENCODER
                filled["encoder"] = _spelled_out(encoder, make_encoder(encoder.name, encoder.params))
            filled["detection_rate"] = self._detection_rate
            needs_verified = detector.needs_verified or labeler.needs_verified
            filled["verified_rate"] = (self.verified_rate or VERIFIED_RATE) if needs_verified else None
        for name, value in filled.items():
            object.__setattr__(self, name, value)  # still being made, so not frozen yet
        return self

    def make_attack(self) -> Attack:
        """The attack, ready to use."""
        return make_attack(self.attack.name, self.attack.params)

    def make_detector(self) -> Detector:
        """The detector, ready to use.

        Raises:
            ConfigError: the config names none.
        """
        detector = self._needed("detector", self.detector, DETECTORS)
        return make_detector(detector.name, detector.params)

    def make_labeler(self) -> Labeler:
        """The labeler, ready to use.

        Raises:
            ConfigError: the config names none.
        """
        labeler = self._needed("labeler", self.labeler, LABELERS)
        return make_labeler(labeler.name, labeler.params)

    def _needed(self, kind: str, method: Method | None, registry: Iterable[str]) -> Method:
        """The method, or the error that says that the defence cannot do without one."""
        if method is None:
            raise ConfigError(
                f"defense {self.defense.name!r} needs a {kind}: name one of {', '.join(sorted(registry))}"
            )
        return method

    def make_encoder(self) -> SelfSupervised | None:
        """The self-supervised training, ready to use; None if nobody needs it."""
        return None if self.encoder is None else make_encoder(self.encoder.name, self.encoder.params)

    @property
    def _detection_rate(self) -> Rate | None:
        """A threshold takes its place."""
        return None if self.detection_threshold is not None else self.detection_rate or NAB.detection_rate

    def make_defense(self) -> Defense:
        """The defence, with its detector and labeler where it takes them, ready to use."""
        params = dict(self.defense.params)
        if lookup("defense", self.defense.name, DEFENSES).takes_suspects:
            for name in BESIDE_DEFENSE:
                if name in params:
                    raise ConfigError(f"expected {name} beside the defense, not among its params")
            params |= {"detector": self.make_detector(), "labeler": self.make_labeler()}
            params |= {"detection_rate": self._detection_rate, "detection_threshold": self.detection_threshold}
        return build("defense", self.defense.name, DEFENSES, params)

    def canonical(self) -> str:
        """Canonical JSON of what the run is: keys sorted, values that are the defaults left out.

        So a hyper-parameter that is added later, with a default that means what was done before, changes no hash; and a
        default that is changed later changes the hash of every stored run that had the old value. So does a method's
        ``version``, when it is raised.
        """
        values: dict[str, Any] = {"version": VERSION}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Method):
                version = _version(name, value)
                value = _short(name, value.name, value.params)
                if version > 1:
                    value["version"] = version
            elif isinstance(value, Recipe):
                value = _without_defaults(_plain(dataclasses.asdict(value)), _plain(dataclasses.asdict(Recipe())))
            elif value == CANONICAL_DEFAULTS.get(name, field.default):
                continue
            values[name] = value
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def poisoned(self) -> str:
        """How much is poisoned, in words: a clean-label attack's rate is a share of the target class."""
        whole = "the target class" if ATTACKS[self.attack.name].clean_label else "all"
        return f"{100 * self.poison_rate:g} % of {whole}"

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the run."""
        return hashlib.blake2b(self.canonical().encode(), digest_size=8).hexdigest()


_REGISTRIES: dict[str, dict[str, type[Any]]] = {
    "attack": ATTACKS,
    "defense": DEFENSES,
    "detector": DETECTORS,
    "labeler": LABELERS,
    "encoder": ENCODERS,
}


def _spelled_out(method: Method, made: Any) -> Method:
    """The method with all its hyper-parameters; a defence's detector and labeler stand beside it, not in it."""
    return Method(name=method.name, params=_own_params(made))


def _own_params(made: Any) -> dict[str, Any]:
    values: dict[str, Any] = _plain(dataclasses.asdict(made))
    beside = BESIDE_DEFENSE if isinstance(made, Defense) else ()
    return {name: value for name, value in values.items() if name not in beside}


def _defaults(kind: str, name: str) -> dict[str, Any]:
    return _own_params(_REGISTRIES[kind][name]())


def _version(kind: str, method: Method) -> int:
    """Of a method; an ensemble's depends on its members."""
    registry = _REGISTRIES[kind]
    version = getattr(registry[method.name], "version", 1)
    return version if isinstance(version, int) else build(kind, method.name, registry, method.params).version


def _short(kind: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
    """A method without what its defaults say, and so with methods among its hyper-parameters: an ensemble's members."""
    kept = _without_defaults(params, _defaults(kind, name))
    for field, value in kept.items():
        if isinstance(value, list) and all(isinstance(v, dict) and v.keys() == {"name", "params"} for v in value):
            kept[field] = [_short(kind, member["name"], member["params"]) for member in value]
    return {"name": name} | kept


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs; nested mappings likewise."""
    kept = {}
    for name, value in values.items():
        default = defaults.get(name)
        if value == default:
            continue
        kept[name] = (
            _without_defaults(value, default) if isinstance(value, dict) and isinstance(default, dict) else value
        )
    return kept


def _plain(values: Any) -> Any:
    """Values as JSON gives them back: tuples as lists."""
    return json.loads(json.dumps(values))


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked `RunConfig`.

    Raises:
        ConfigError: a value is unknown or out of its range; the message names it.
    """
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from None
