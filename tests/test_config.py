"""`RunConfig`: what matters changes the hash, and nothing else does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from helpers import alternatives
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import ATTACKS, Blend
from nab.defenses import DEFENSES, NAB, NoDefense
from nab.detection import DETECTORS, LGA
from nab.digest import SCHEMA
from nab.errors import ConfigError, NabError
from nab.experiments import Method, RunConfig, make_config
from nab.methods import KINDS
from nab.pseudolabels import LABELERS, VD
from nab.stamp import Stamp
from nab.training import RECIPES, Recipe

DEFENDED = {"defense": "nab", "detector": "lga", "labeler": "vd", "detection_rate": 0.05, "verified_rate": 0.05}

OTHERS = {
    "dataset": "folder",
    "attack": "blend",
    "poison_rate": 0.2,
    "label_map": "all-to-all",
    "selection": "uniform",
    "target": 3,
    "defense": {"name": "nab", "params": {"stamp": {"size": 3}}},
    "detector": "oracle",
    "labeler": "oracle",
    "encoder": "barlow-twins",
    "detection_rate": 0.1,
    "detection_threshold": 0.5,
    "verified_rate": 0.1,
    "model": "resnet9",
    "recipe": {"name": "paper", "params": {"epochs": 7}},
    "monitor_size": 500,
    "seed": 1,
}
"""For every field of `RunConfig`, another value than the default or the one above."""

MEMBERS = ("lga", "scan", "strip", "fct")
"""Of an ensemble, by default."""

OF_SUSPECTS = ("detector", "labeler", "detection_rate", "detection_threshold")


def plain(**fields: Any) -> RunConfig:
    return make_config(fields)


def config(**changes: Any) -> RunConfig:
    return make_config(DEFENDED | changes)


def method(name: str, **params) -> dict:
    return {"name": name, "params": params}


# What changes the hash.


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields))
def test_every_field_that_matters_changes_the_hash(name):
    needed = {"labeler": "nc"} if name == "encoder" else {}
    assert config(**needed, **{name: OTHERS[name]}).hash != config(**needed).hash


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_changes_the_hash(field):
    other = {"schedule": "constant", "precision": "float32", "optimizer": "muon", "milestones": [3]}
    value = other[field] if field in other else alternatives(getattr(Recipe(), field))[0]
    assert config(recipe=method("paper", **{field: value})).hash != config().hash


@pytest.mark.parametrize("kind", KINDS)
def test_every_hyper_parameter_of_every_method_changes_the_hash_and_its_default_does_not(kind):
    needed = {"labeler": "nc"} if kind == "encoder" else {}
    for name in sorted(KINDS[kind].registry.keys() - {"custom"}):  # which is described by a file; see the models' tests
        base = config(**needed, **{kind: name})
        for field in dataclasses.fields(KINDS[kind].make(name)):
            default: Any = getattr(KINDS[kind].make(name), field.name)
            spelled = as_given(default)
            assert config(**needed, **{kind: method(name, **{field.name: spelled})}).hash == base.hash
            hashes = {
                found.hash for value in others(default) if (found := valid(needed, kind, name, field.name, value))
            }
            assert base.hash not in hashes
            assert hashes or not others(default), (name, field.name)


def as_given(value: Any) -> Any:
    """A hyper-parameter as YAML has it: one that is a dataclass as a mapping of its fields."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def others(default: Any) -> list:
    """Other values of a hyper-parameter; of one that is a dataclass, with one field changed."""
    whole = as_given(default)
    if whole is default:
        return alternatives(default)
    return [whole | {field: other} for field, value in whole.items() for other in alternatives(value)]


def valid(needed: dict, kind: str, name: str, field: str, value) -> RunConfig | None:
    try:
        return config(**needed, **{kind: method(name, **{field: value})})
    except NabError:
        return None


shares = st.floats(0.001, 0.999)


@settings(max_examples=40, deadline=None)
@given(one=st.tuples(shares, shares, st.integers(0, 10**6)), other=st.tuples(shares, shares, st.integers(0, 10**6)))
def test_runs_have_one_hash_if_and_only_if_they_are_the_same(one, other):
    def build(values):
        return config(poison_rate=values[0], detection_rate=values[1], seed=values[2])

    assert (build(one).hash == build(other).hash) == (one == other)


# What does not.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, make_config(DEFENDED).settings),
        ({"detection_rate": None, "verified_rate": None}, {"detection_rate": 0.05, "verified_rate": 0.05}),
        ({"poison_rate": None}, {"poison_rate": 0.1}),
        ({"recipe": "quick"}, {"recipe": method("paper", **dataclasses.asdict(RECIPES["quick"]))}),
        ({"recipe": "paper"}, {"recipe": method("quick", **dataclasses.asdict(Recipe()))}),
        ({"recipe": method("paper", milestones=(1, 2))}, {"recipe": method("paper", milestones=[1, 2])}),
        ({"recipe": method("paper", lr=1, weight_decay=0)}, {"recipe": method("paper", lr=1.0, weight_decay=0.0)}),
        ({"detection_rate": None, "detection_threshold": 1}, {"detection_threshold": 1.0}),
        ({"defense": method("nab", stamp=Stamp(value=2))}, {"defense": method("nab", stamp={"value": 2.0})}),
        ({"defense": Method(name="nab")}, {"defense": {"name": "nab"}}),
        ({"detector": "ensemble"}, {"detector": method("ensemble", members=[{"name": name} for name in MEMBERS])}),
        ({"seed": 3}, {"seed": "3"}),
        ({"labeler": "vd"}, {"labeler": "vd", "encoder": "barlow-twins"}),
        ({"defense": "drop-suspects"}, {"defense": "drop-suspects", "labeler": "nc", "verified_rate": 0.3}),
        ({"detection_threshold": 2.0}, {"detection_threshold": 2.0, "detection_rate": 0.3}),
        ({"attack": "none"}, {"attack": "none", "poison_rate": 0.4, "target": 3, "selection": "uniform"}),
        ({"attack": "none"}, {"attack": "none", "label_map": "all-to-all"}),
    ],
    ids=str,
)
def test_what_means_the_same_has_one_hash(one, other):
    assert config(**one).hash == config(**other).hash
    assert config(**one).settings == config(**other).settings or "recipe" in one  # whose names differ


@pytest.mark.parametrize("name", [*OF_SUSPECTS, "verified_rate", "encoder"])
def test_what_an_undefended_run_does_not_use_is_none_and_does_not_matter(name):
    chosen = plain(defense="none", **{name: OTHERS[name]})
    assert chosen.hash == plain().hash
    assert getattr(chosen, name) is None


def test_the_hash_is_16_digits_of_what_was_chosen_and_a_field_that_is_added_later_changes_none():
    """Fields that have their defaults are left out."""
    assert plain().hash == by_hand({"attack": {"is": "BadNets"}, "defense": {"is": "NoDefense"}, "poison_rate": 0.1})
    chosen = {"attack": {"is": "NoAttack"}, "defense": {"is": "FineTune", "lr": 0.5}, "verified_rate": 0.05, "seed": 7}
    assert plain(attack="none", defense=method("fine-tune", lr=0.5), seed=7).hash == by_hand(chosen)


def by_hand(chosen: dict) -> str:
    usual = {"schema": SCHEMA, "dataset": {"is": "Digits"}, "model": {"is": "ResNet18"}, "recipe": {"is": "Recipe"}}
    text = json.dumps(usual | chosen, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:16]


@settings(max_examples=30, deadline=None)
@given(
    epochs=st.integers(1, 500),
    lr=st.floats(1e-6, 10),
    alpha=st.floats(0.01, 1),
    size=st.integers(1, 16),
    milestones=st.lists(st.integers(0, 100), max_size=3),
)
def test_a_config_survives_its_own_json(epochs, lr, alpha, size, milestones):
    original = config(
        recipe=method("paper", epochs=epochs, lr=lr, milestones=milestones),
        attack=method("blend", alpha=alpha),
        defense=method("nab", stamp={"size": size}),
    )
    again = make_config(json.loads(json.dumps(original.settings)))
    assert again == original
    assert again.hash == original.hash


@dataclasses.dataclass(frozen=True)
class Longer(LGA):
    """LGA, after it has gained a field."""

    gained: float = 0.5


def test_a_field_that_an_ensembles_member_gains_changes_no_hash(monkeypatch):
    """As for every other method. Members are written out with all their hyper-parameters."""

    def made(**params):
        members = [{"name": "lga", "params": {"epochs": 3} | params}, {"name": "fct"}]
        return config(detector=method("ensemble", members=members))

    before = made().detector.params["members"]
    monkeypatch.setitem(DETECTORS, "lga", Longer)
    assert made().detector.params["members"][0]["params"] == before[0]["params"] | {"gained": 0.5}
    assert made().hash == made(gained=0.5).hash
    assert made().hash != made(gained=0.25).hash


def test_a_method_that_cannot_be_told_apart_from_its_next_version_is_refused(monkeypatch):
    """As one that is defined in a notebook, which has no file to be read."""

    @dataclasses.dataclass(frozen=True)
    class Nameless(NoDefense):
        pass

    monkeypatch.setitem(DEFENSES, "nameless", Nameless)
    with pytest.raises(ConfigError, match=r"no name of its own: .*Nameless; write the method in a file"):
        _ = plain(defense="nameless").hash


# What a run needs.


def test_verified_data_are_kept_for_whoever_needs_them():
    """With suspects or without: NAB needs none itself, VD does, and so do fine-tuning and Beatrix."""
    for chosen in (
        config(verified_rate=0.2),
        plain(defense="fine-tune", verified_rate=0.2),
        plain(defense="drop-suspects", detector="beatrix", verified_rate=0.2),
    ):
        assert chosen.verified_rate == 0.2
    assert plain(defense="fine-tune").verified_rate == 0.05
    assert config(labeler="nc").verified_rate is None


def test_every_method_has_verified_data_and_an_encoder_if_and_only_if_it_needs_them():
    for kind, registry in (("defense", DEFENSES), ("detector", DETECTORS), ("labeler", LABELERS)):
        for name in registry:
            chosen = config(**{kind: name})
            users = [chosen.make_defense(), chosen.make_detector(), chosen.make_labeler()]
            needs = set().union(*(user.needs for user in users if user is not None))
            assert (chosen.verified_rate is not None) == ("verified" in needs), name
            assert (chosen.encoder is not None) == ("features" in needs), name
            assert (chosen.detector is not None) == ("suspects" in chosen.make_defense().needs), name
            assert (chosen.labeler is not None) == ("pseudo labels" in chosen.make_defense().needs), name


def test_a_detector_does_without_a_labeler_where_nobody_asks_for_labels():
    chosen = plain(defense="drop-suspects", detector="lga")
    assert (chosen.make_detector(), chosen.labeler, chosen.detection_rate) == (LGA(), None, 0.05)


def test_without_an_attack_its_settings_are_as_by_default():
    chosen = plain(attack="none", poison_rate=0.3, target=4, selection="uniform", label_map="all-to-all")
    found = (chosen.poison_rate, chosen.target, chosen.selection, chosen.label_map)
    assert found == (None, 0, "balanced", "all-to-one")


def test_a_rate_that_is_not_given_is_the_attacks_usual_one():
    for name, attack in ATTACKS.items():
        assert plain(attack=name).poison_rate == (attack.usual_rate if attack.plants else None)


def test_a_config_builds_the_methods_it_names():
    chosen = config(
        attack=method("blend", alpha=0.2),
        defense=method("nab", stamp={"size": 4, "value": 2.5}),
        detector=method("lga", epochs=3),
        labeler=method("vd", milestones=[1, 2]),
        model=method("resnet9", width=8),
        dataset=method("digits", train_size=100),
    )
    assert chosen.make_attack() == Blend(alpha=0.2)
    assert chosen.make_defense() == NAB(stamp=Stamp(size=4, value=2.5))
    assert chosen.make_detector() == LGA(epochs=3)
    assert chosen.make_labeler() == VD(milestones=(1, 2))
    assert chosen.make_architecture() == KINDS["model"].registry["resnet9"](width=8)
    assert chosen.make_source() == KINDS["dataset"].registry["digits"](train_size=100)
    assert chosen.make_recipe() == Recipe()
    assert chosen.make_encoder() is None
