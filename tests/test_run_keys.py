"""What each stage of a run depends on: what matters changes its key, what does not keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.data.digits import Digits
from nab.digest import digest
from nab.errors import ConfigError
from nab.experiments import Profile, ResultStore, RunConfig, run
from nab.methods import KINDS
from nab.training import Output, Predictor, Recipe, Trained

PROFILE = Profile(
    name="keys",
    summary="as small as can be",
    run={
        "dataset": {"name": "digits", "train_size": 60},
        "attack": "badnets",
        "poison_rate": 0.1,
        "defense": "nab",
        "detector": "lga",
        "labeler": "vd",
        "encoder": "simclr",
        "detection_rate": 0.2,
        "verified_rate": 0.2,
        "model": {"name": "resnet9", "width": 4},
        "monitor_size": 20,
        "recipe": {
            "name": "paper",
            "epochs": 2,
            "batch_size": 16,
            "lr": 0.05,
            "schedule": "one-cycle",
            "precision": "float32",
        },
    },
)

ALL = frozenset({"attack", "detection", "pseudo labels", "pseudo labels (vd)", "training (nab)", "evaluation"})
FINAL = frozenset({"training (nab)", "evaluation"})
LABELER = frozenset({"pseudo labels", "pseudo labels (vd)"})
NETWORKS = ALL - {"attack"}
OF_POISON = ALL - {"pseudo labels (vd)"}
"""The labeler's network is trained on clean images alone."""

SHARES = st.sampled_from([0.3, 0.4, 0.5])
COUNTS = st.integers(3, 40)
RATES = st.sampled_from([0.011, 0.02, 0.2, 0.3])

FIELDS: dict[str, tuple[st.SearchStrategy[Any], frozenset[str]]] = {
    "attack": (st.just("blend"), OF_POISON),
    "attack.margin": (st.integers(4, 9), OF_POISON),
    "poison_rate": (SHARES, OF_POISON),
    "selection": (st.sampled_from(["uniform", "exclude_target"]), OF_POISON),
    "label_map": (st.just("all-to-all"), OF_POISON),
    "target": (st.integers(1, 9), OF_POISON),
    "seed": (st.integers(1, 10**6), ALL),
    "dataset.train_size": (st.integers(70, 90), ALL),
    "dataset.normalization.mean": (st.just([0.5, 0.5, 0.5]), ALL),
    "model": (st.just({"name": "resnet18", "width": 4}), NETWORKS),
    "model.width": (st.just(5), NETWORKS),
    "detector.epochs": (st.integers(3, 19), frozenset({"detection"})),
    "detector.lr": (RATES, frozenset({"detection"})),
    "detector.gamma": (st.floats(0.6, 2), frozenset({"detection"})),
    "detector.batch_size": (COUNTS, frozenset({"detection"})),
    "detector.cosine_extra_epochs": (COUNTS, frozenset({"detection"})),
    "detection_rate": (SHARES, FINAL),
    "detection_threshold": (st.just(-50.0), FINAL),
    "labeler.epochs": (COUNTS, LABELER),
    "labeler.lr": (RATES, LABELER),
    "labeler.milestones": (st.just([1, 3]), LABELER),
    "labeler.stamp.value": (st.floats(1, 9), frozenset({"pseudo labels"})),
    "verified_rate": (SHARES, LABELER),
    "defense.stamp.value": (st.floats(1, 9), FINAL),
    "defense.stamp.size": (st.integers(3, 9), FINAL),
    "defense.stamp.corner": (st.just("lower-right"), FINAL),
    "recipe.epochs": (COUNTS, FINAL),
    "recipe.batch_size": (st.integers(17, 40), FINAL),
    "recipe.lr": (RATES, FINAL),
    "recipe.momentum": (st.just(0.5), FINAL),
    "recipe.nesterov": (st.just(True), FINAL),
    "recipe.weight_decay": (RATES, FINAL),
    "recipe.label_smoothing": (st.just(0.1), FINAL),
    "recipe.schedule": (st.sampled_from(["cosine", "constant"]), FINAL),
    "recipe.crop_padding": (st.integers(5, 7), LABELER | FINAL),
    "recipe.flip": (st.just(False), LABELER | FINAL),
    "recipe.cutout": (st.sampled_from([0, 5]), LABELER | FINAL),
    "recipe.precision": (st.just("bfloat16"), ALL),
    "monitor_size": (st.integers(21, 40), frozenset({"training (nab)"})),
}
"""For every setting: other values, and the stages that have another key then, whatever the data say."""


def reach(stages: frozenset[str]) -> frozenset[str]:
    """Those stages, and the ones that have another key if those have another output."""
    return stages | (FINAL if stages & {"detection", "pseudo labels"} else frozenset())


SETS = tuple(random_dataset(count, size=20, classes=10, seed=count) for count in (100, 40))
"""In the place of the digits, which are more and larger."""


class Recorder:
    """A keeper that writes down what it is asked for; in the place of training, networks get weights that follow from
    all that the training depends on, and from no more."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self._open: list[str] = []

    def __call__(self, stage: str, inputs: Mapping[str, Any], make) -> Output:
        self.asked.append((stage, digest({"stage": stage, **inputs})))
        trained_from = {name: value for name, value in inputs["inputs"].items() if name != "watched"}
        self._open.append(digest({**inputs, "inputs": trained_from}))
        try:
            return make()
        finally:
            self._open.pop()

    def fit(self, predictor: Predictor, *_: Any, observe: Any, **__: Any) -> Trained:
        torch.manual_seed(int(self._open[-1][:8], 16))
        for parameter in predictor.network.parameters():
            parameter.data.normal_()
        predictor.network.eval()
        return Trained(predictor, [{"epoch": 1.0, "observed": float(observe is not None)}], 1.0)


_known: dict[str, dict[str, str]] = {}


def keys_of(config: RunConfig) -> dict[str, str]:
    """By stage; nothing is trained."""
    if config.hash not in _known:
        _known[config.hash] = record(config)
    return _known[config.hash]


def record(config: RunConfig) -> dict[str, str]:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nab.training.trainer.fit", recorder.fit)
        patch.setattr(Digits, "read", lambda source, data_root: SETS)
        patch.setattr(ResultStore, "write", lambda store, result, config: None)
        patch.setattr(ResultStore, "read", lambda store, config: None)
        patch.setattr(ResultStore, "check_writable", lambda store: None)
        run(config, device="cpu", keeper=recorder)
    keys = dict(recorder.asked)
    assert len(keys) == len(set(recorder.asked)), "a stage that is asked for twice has one key"
    return keys


def changed(one: RunConfig, other: RunConfig) -> set[str]:
    """Stages whose keys differ."""
    before, after = keys_of(one), keys_of(other)
    assert set(before) == set(after)
    return {stage for stage in before if before[stage] != after[stage]}


BASE = PROFILE.config()


@pytest.mark.parametrize("field", FIELDS)
def test_a_setting_changes_the_keys_of_the_stages_to_which_it_matters_and_of_no_others(field):
    values, expected = FIELDS[field]

    @settings(max_examples=2, deadline=None)
    @given(values)
    def holds(value):
        assert expected <= changed(BASE, PROFILE.config(**{field: value})) <= reach(expected)

    holds()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_several_settings_change_what_each_of_them_changes(data):
    """Parameters of an attack or a network do not go with another one."""
    others = sorted(set(FIELDS) - {"attack", "model"})
    fields = data.draw(st.lists(st.sampled_from(others), min_size=2, max_size=5, unique=True))
    chosen = {field: data.draw(FIELDS[field][0], label=field) for field in fields}
    try:
        config = PROFILE.config(**chosen)
        expected = frozenset().union(*(FIELDS[field][1] for field in chosen))
        assert expected <= changed(BASE, config) <= reach(expected)
    except ConfigError:  # some settings exclude each other
        return


def test_every_setting_of_a_run_and_of_its_recipe_is_in_the_table():
    """A setting that is added later must say what depends on it."""
    named = {name.partition(".")[0] for name in FIELDS} | {"encoder"}  # below
    assert named == set(RunConfig.model_fields)
    recipe = {name.removeprefix("recipe.") for name in FIELDS if name.startswith("recipe.")}
    recipe |= {"warmup", "cosine_extra_epochs", "milestones", "step_factor", "optimizer", "filter_lr"}  # below
    assert recipe == {field.name for field in dataclasses.fields(Recipe)}
    assert all(any(name.startswith(f"{kind}.") for name in FIELDS) for kind in KINDS.keys() - {"encoder"})


@pytest.mark.parametrize("field", ["cosine_extra_epochs", "milestones", "step_factor", "filter_lr"])
def test_what_a_schedule_or_optimizer_does_not_look_at_changes_no_key(field):
    """The recipe is one-cycle, which knows neither milestones nor a cosine, with SGD; LGA and VD have their own."""
    value = [1] if field == "milestones" else 7
    assert changed(BASE, PROFILE.config(**{f"recipe.{field}": value})) == set()


@pytest.mark.parametrize(("field", "value"), [("recipe.warmup", 0.7), ("recipe.optimizer", "muon")])
def test_a_detector_and_a_labeler_do_not_depend_on_how_the_final_network_is_updated(field, value):
    assert changed(BASE, PROFILE.config(**{field: value})) == FINAL


def test_an_encoder_matters_to_who_needs_features_and_to_nobody_else():
    assert changed(BASE, PROFILE.config(encoder="barlow-twins")) == set()
    featured = {"labeler": "knn", "encoder": "simclr", "encoder.epochs": 1, "encoder.batch_size": 30}
    one, other, later = (PROFILE.config(**(featured | {"encoder.epochs": epochs})) for epochs in (1, 2, 1))
    (encoder,) = keys_of(one).keys() - ALL
    assert {encoder, "pseudo labels"} <= changed(one, other) <= {encoder, "pseudo labels"} | FINAL
    assert changed(one, later) == set()
    relabeled = PROFILE.config(**featured, detection_rate=0.3)
    assert {"pseudo labels"} <= changed(one, relabeled) <= {"pseudo labels"} | FINAL, "the encoder sees no suspects"


# Sharing.


def test_a_run_asks_for_its_stages_in_this_order():
    """The labeler's network is a stage within the pseudo labels."""
    order = ["attack", "detection", "pseudo labels", "pseudo labels (vd)", "training (nab)", "evaluation"]
    assert list(keys_of(BASE)) == order
    assert list(keys_of(PROFILE.config(defense="none"))) == ["attack", "training", "evaluation"]


def test_all_defenses_against_an_attack_share_the_poisoned_data():
    with_nab, without = keys_of(BASE), keys_of(PROFILE.config(defense="none"))
    assert with_nab["attack"] == without["attack"]
    assert with_nab["evaluation"] != without["evaluation"]


@pytest.mark.parametrize(
    "choice",
    [{"defense": "fine-tune"}, {"defense": "audit"}, {"defense": "audit", "detector": "spectral-signatures"}],
    ids=str,
)
def test_all_methods_that_train_the_attacked_model_share_it(choice):
    attacked = keys_of(PROFILE.config(defense="none"))
    assert keys_of(PROFILE.config(**choice))["training"] == attacked["training"]


def test_whoever_deploys_the_attacked_model_shares_its_evaluation():
    audit, none = (keys_of(PROFILE.config(defense=name)) for name in ("audit", "none"))
    assert audit["evaluation"] == none["evaluation"]


def test_all_attacks_share_the_labelers_network():
    keys = {keys_of(PROFILE.config(attack=attack))["pseudo labels (vd)"] for attack in ("badnets", "blend", "wanet")}
    assert len(keys) == 1


@pytest.mark.parametrize(("kind", "stage"), [("detector", "detection"), ("labeler", "pseudo labels")])
def test_what_an_oracle_says_is_never_kept(kind, stage):
    keys = keys_of(PROFILE.config(**{kind: "oracle"}))
    assert stage not in keys
    assert {"attack", "training (nab)", "evaluation"} <= set(keys)


def test_the_key_of_what_is_trained_knows_what_an_oracle_said():
    right, wrong = (keys_of(PROFILE.config(labeler="oracle", **{"labeler.accuracy": share})) for share in (1.0, 0.3))
    assert right["detection"] == wrong["detection"]
    assert right["training (nab)"] != wrong["training (nab)"]


def test_another_schema_is_another_key_of_every_stage(monkeypatch):
    before = keys_of(BASE)
    monkeypatch.setattr("nab.training.trainer.SCHEMA", 77)
    after = record(BASE)
    assert {stage for stage in before if before[stage] != after[stage]} == ALL
