"""`RunConfig` and profiles: what matters changes the hash, and nothing else does."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers import alternatives
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import ATTACKS
from nab.defenses import DEFENSES
from nab.detection import DETECTORS
from nab.errors import ConfigError, NabError
from nab.experiments import Method, RunConfig, load_profile, make_config, profile_names
from nab.experiments.config import BESIDE_DEFENSE, SUSPECT_FIELDS
from nab.experiments.profiles import Profile
from nab.pseudolabels import LABELERS
from nab.selfsupervised import ENCODERS
from nab.stamp import Stamp
from nab.training import RECIPES, Recipe

REGISTRIES = {
    "attack": ATTACKS,
    "defense": DEFENSES,
    "detector": DETECTORS,
    "labeler": LABELERS,
    "encoder": ENCODERS,
}

DEFENDED = {
    "defense": Method(name="nab"),
    "detector": Method(name="lga"),
    "labeler": Method(name="vd"),
    "detection_rate": 0.05,
    "verified_rate": 0.05,
}

OTHERS = {
    "dataset": "folder",
    "train_size": 100,
    "attack": Method(name="blend"),
    "poison_rate": 0.2,
    "label_map": "all-to-all",
    "selection": "uniform",
    "target": 3,
    "defense": Method(name="nab", params={"stamp": {"size": 3}}),
    "detector": Method(name="oracle"),
    "labeler": Method(name="oracle"),
    "encoder": Method(name="barlow-twins"),
    "detection_rate": 0.1,
    "detection_threshold": 0.5,
    "verified_rate": 0.1,
    "model": "resnet9",
    "width": 32,
    "recipe": Recipe(epochs=7),
    "monitor_size": 500,
    "seed": 1,
}
"""For every field of `RunConfig`, another value than the default or the one above."""


def config(**changes) -> RunConfig:
    return make_config(DEFENDED | changes)


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields))
def test_every_field_that_matters_changes_the_hash(name):
    needed = {"labeler": Method(name="nc")} if name == "encoder" else {}
    assert config(**needed, **{name: OTHERS[name]}).hash != config(**needed).hash


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_changes_the_hash(field):
    other = {"schedule": "constant", "precision": "float32", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    other |= {"optimizer": "muon"}
    needed = {"optimizer": "muon"} if field == "filter_lr" else {}
    default = getattr(Recipe(), field)
    value = other[field] if field in other else next(value for value in alternatives(default) if value != default)
    assert config(recipe=needed | {field: value}).hash != config(recipe=needed).hash


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in REGISTRIES for name in sorted(REGISTRIES[kind])])
def test_every_hyper_parameter_of_every_method_changes_the_hash_and_its_default_does_not(kind, name):
    cls = REGISTRIES[kind][name]
    featured = {"labeler": Method(name="nc")} if kind == "encoder" else {}
    base = config(**featured, **{kind: Method(name=name)})
    for field in dataclasses.fields(cls):
        if kind == "defense" and field.name in BESIDE_DEFENSE:
            continue  # they stand beside the defence
        default = getattr(cls(), field.name)
        spelled = dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default
        assert config(**featured, **{kind: Method(name=name, params={field.name: spelled})}).hash == base.hash
        others = [_nested(default)] if dataclasses.is_dataclass(default) else alternatives(default)
        hashes = set()
        for value in others:
            try:
                hashes.add(config(**featured, **{kind: Method(name=name, params={field.name: value})}).hash)
            except NabError:
                continue
        assert base.hash not in hashes
        assert hashes or not others


def _nested(default) -> dict[str, object]:
    """The fields of a hyper-parameter that is a dataclass, one of them another than by default."""
    return dataclasses.asdict(default) | ({"size": 5} if isinstance(default, Stamp) else {"flip_rate": 0.25})


def test_defaults_spelled_out_are_the_same_run_as_defaults_left_out():
    assert RunConfig().hash == RunConfig(**{name: getattr(RunConfig(), name) for name in RunConfig.model_fields}).hash
    assert RunConfig().hash == make_config({"recipe": dataclasses.asdict(Recipe()), "attack": {"name": "badnets"}}).hash


@pytest.mark.parametrize("name", ["detection_rate", "verified_rate"])
def test_a_share_left_out_is_the_same_run_as_its_default(name):
    """Both leave the choice to the library, which takes 5 %."""
    assert config(**{name: None}).hash == config(**{name: 0.05}).hash


@pytest.mark.parametrize("name", SUSPECT_FIELDS)
def test_what_an_undefended_run_does_not_use_does_not_change_its_hash(name):
    plain = RunConfig()
    assert RunConfig(defense=Method(name="none"), **{name: OTHERS[name]}).hash == plain.hash
    assert RunConfig(defense={"name": "none"}, **{name: OTHERS[name]}).hash == plain.hash
    assert RunConfig(**{name: OTHERS[name]}).hash == plain.hash, "the default defence is none too"


def test_a_whole_number_is_the_same_setting_as_the_float():
    assert config(recipe=Recipe(lr=1, weight_decay=0)).hash == config(recipe=Recipe(lr=1.0, weight_decay=0.0)).hash
    one, other = (Method(name="nab", params={"stamp": stamp}) for stamp in (Stamp(value=2), {"value": 2.0}))
    assert config(defense=one).hash == config(defense=other).hash


shares = st.floats(0.001, 0.999)


@given(one=st.tuples(shares, shares, st.integers(0, 10**6)), other=st.tuples(shares, shares, st.integers(0, 10**6)))
def test_runs_have_one_hash_if_and_only_if_they_are_the_same(one, other):
    def build(values):
        return config(poison_rate=values[0], detection_rate=values[1], seed=values[2])

    assert (build(one).hash == build(other).hash) == (one == other)


@settings(max_examples=50)
@given(
    epochs=st.integers(1, 500),
    lr=st.floats(1e-6, 10),
    alpha=st.floats(0.01, 1),
    size=st.integers(1, 16),
    milestones=st.lists(st.integers(0, 100), max_size=3),
)
def test_a_config_survives_its_own_json(epochs, lr, alpha, size, milestones):
    original = config(
        recipe={"epochs": epochs, "lr": lr, "milestones": milestones},
        attack=Method(name="blend", params={"alpha": alpha}),
        defense=Method(name="nab", params={"stamp": {"size": size}}),
    )
    again = RunConfig.model_validate_json(original.model_dump_json())
    assert again == original
    assert again.hash == original.hash


def test_the_hash_is_16_digits_that_another_process_finds_too():
    import hashlib

    assert len(config().hash) == 16
    assert hashlib.blake2b(config().canonical().encode(), digest_size=8).hexdigest() == config().hash


def test_a_field_that_an_ensembles_member_gains_changes_no_hash(monkeypatch):
    """As for every other method; members are written out with all their hyper-parameters."""

    @dataclasses.dataclass(frozen=True)
    class Longer(DETECTORS["lga"]):
        gained: float = 0.5

    members = [{"name": "lga", "params": {"epochs": 3}}, {"name": "fct"}]
    values = {"detector": {"name": "ensemble", "params": {"members": members}}}
    before = config(**values).hash
    monkeypatch.setitem(DETECTORS, "lga", Longer)
    assert config(**values).detector.params["members"][0]["params"]["gained"] == 0.5
    assert config(**values).hash == before
    members[0]["params"]["gained"] = 0.25
    assert config(**values).hash != before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"poison_rate": 1.5}, "poison_rate: .*less than 1, got 1.5"),
        ({"detection_rate": 0}, "detection_rate in .0, 1., got 0"),
        ({"width": 0}, "width: .*greater than or equal to 1, got 0"),
        ({"train_size": 0}, "train_size: .*got 0"),
        ({"target": -1}, "target: .*got -1"),
        ({"seed": -1}, "seed: .*got -1"),
        ({"monitor_size": 0}, "monitor_size: .*got 0"),
        ({"dataset": "cifar"}, "unknown dataset 'cifar'.*did you mean 'cifar10'"),
        ({"model": "resnet"}, "unknown model 'resnet'.*resnet18"),
        ({"selection": "all"}, "balanced, uniform, exclude_target, got 'all'"),
        ({"attack": {"name": "badnet"}}, "unknown attack 'badnet'.*did you mean 'badnets'"),
        (
            {"attack": {"name": "blend", "params": {"alfa": 1}}},
            "unknown parameter of attack 'blend' 'alfa'.*did you mean 'alpha'",
        ),
        ({"attack": {"name": "blend", "params": {"alpha": 2}}}, r"alpha in \(0, 1\], got 2"),
        ({"attack": {"name": "blend", "paramz": {}}}, "paramz"),
        ({"defense": {"name": "nap"}}, "unknown defense 'nap'.*did you mean 'nab'"),
        ({"detector": None}, f"defense 'nab' needs a detector: name one of {', '.join(sorted(DETECTORS))}"),
        ({"labeler": None}, f"defense 'nab' needs a labeler: name one of {', '.join(sorted(LABELERS))}"),
        ({"defense": {"name": "nab", "params": {"detection_rate": 0.1}}}, "detection_rate beside the defense"),
        ({"defense": {"name": "nab", "params": {"stamp": {"sise": 4}}}}, "sise"),
        ({"recipe": {"epochs": 0}}, "epochs.*at least 1, got 0"),
        ({"recipe": {"epoch": 3}}, "epoch"),
        ({"recipe": 3}, "recipe.*got 3"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_run_is_refused_in_one_line(wrong, told):
    with pytest.raises(ConfigError, match=told) as caught:
        make_config(DEFENDED | wrong)
    assert "\n" not in str(caught.value)


def test_a_config_builds_the_methods_it_names():
    chosen = config(
        attack=Method(name="blend", params={"alpha": 0.2}),
        defense=Method(name="nab", params={"stamp": {"size": 4, "value": 2.5}}),
        detector=Method(name="lga", params={"epochs": 3}),
        labeler=Method(name="vd", params={"milestones": [1, 2]}),
        detection_rate=0.07,
    )
    assert chosen.make_attack() == ATTACKS["blend"](alpha=0.2)
    assert chosen.make_defense() == DEFENSES["nab"](
        detector=DETECTORS["lga"](epochs=3),
        labeler=LABELERS["vd"](milestones=(1, 2)),
        detection_rate=0.07,
        stamp=Stamp(size=4, value=2.5),
    )


# Profiles.


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_valid_and_its_runs_differ(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.summary
    runs = list(profile.expand())
    assert len({run.hash for run in runs}) == len(runs) > 0
    for kind in ("defense", "attack"):
        for method in REGISTRIES[kind]:
            assert getattr(profile.config(**{kind: method}), kind).name == method


def test_the_paper_profile_has_the_papers_numbers():
    chosen = load_profile("paper").config(defense="nab")
    assert chosen.recipe == Recipe()
    assert (chosen.dataset, chosen.train_size, chosen.model, chosen.width) == ("cifar10", None, "resnet18", 64)
    assert (chosen.poison_rate, chosen.detection_rate, chosen.verified_rate) == (0.1, 0.05, 0.05)
    assert chosen.make_defense() == DEFENSES["nab"]()


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match="unknown profile 'smok': expected one of laptop, paper, smoke; did you mean 'smoke'"
    ):
        load_profile("smok")


MINE = """
summary: mine
run:
  dataset: digits
  attack: badnets
  defense: nab
  detector: lga
  labeler: vd
  recipe: {epochs: 3}
params:
  detector:
    lga: {epochs: 4}
  defense:
    nab: {stamp: {size: 4, value: 1.5}}
grid:
  seed: [0, 1]
  attack: [badnets, blend]
"""


@pytest.fixture
def mine(tmp_path) -> Profile:
    (tmp_path / "mine.yaml").write_text(MINE)
    return load_profile(str(tmp_path / "mine.yaml"))


def test_a_profile_of_ones_own_has_the_name_of_its_file(mine):
    assert mine.name == "mine"
    chosen = mine.config()
    assert chosen.recipe.epochs == 3
    assert chosen.make_detector().epochs == 4
    assert chosen.make_defense().stamp == Stamp(4, value=1.5)


def test_overrides_take_the_place_of_settings_and_reach_inside(mine):
    chosen = mine.config(
        seed=5, attack=None, **{"recipe.lr": 0.2, "detector.gamma": 0.4, "defense.stamp.size": 3, "labeler.epochs": 9}
    )
    assert chosen.seed == 5
    assert chosen.attack.name == "badnets"
    assert (chosen.recipe.epochs, chosen.recipe.lr) == (3, 0.2)
    assert (chosen.make_detector().epochs, chosen.make_detector().gamma) == (4, 0.4)
    assert chosen.make_defense().stamp == Stamp(3, value=1.5)
    assert chosen.make_labeler().epochs == 9


def test_a_profiles_params_belong_to_the_method_they_name(mine):
    assert mine.config(detector="oracle").make_detector() == DETECTORS["oracle"]()


def test_an_override_does_not_stay_in_the_profile(mine):
    before = mine.config().hash
    mine.config(**{"recipe.epochs": 50, "detector.epochs": 50, "defense.stamp.size": 2, "attack.margin": 1})
    assert mine.config().hash == before


def test_a_grid_is_crossed_slowest_first(mine):
    assert [(run.seed, run.attack.name) for run in mine.expand()] == [
        (0, "badnets"),
        (0, "blend"),
        (1, "badnets"),
        (1, "blend"),
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"sead": 1}, "unknown setting 'sead'.*did you mean 'seed'"),
        ({"recipe.epoch": 1}, "epoch"),
        ({"recipes.epochs": 1}, "unknown setting 'recipes.epochs'"),
        ({"detector.epoch": 1}, "unknown parameter of detector 'lga' 'epoch'.*did you mean 'epochs'"),
        ({"recipe.epochs.x": 1}, "recipe.epochs"),
        ({"recipe": 3, "recipe.epochs": 1}, "recipe"),
        ({"attack": ["badnets"]}, "unknown attack"),
    ],
    ids=str,
)
def test_an_override_that_reaches_nothing_is_an_error(mine, override, told):
    with pytest.raises(ConfigError, match=told):
        mine.config(**override)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run: {dataset: digits", "not valid YAML"),
        ("- a\n- b\n", "expected keys such as summary and run, got list"),
        ("run: {}", "summary"),
        ("summary: x\nrun: {}\nsettings: {}", "settings"),
        ("summary: x\nrun: {dataset: digitz}", "unknown dataset 'digitz'"),
        ("summary: x\nrun: {widht: 3}", "unknown setting 'widht'.*did you mean 'width'"),
        ("summary: x\nrun: {defense: nab}", "needs a detector"),
    ],
)
def test_a_profile_file_that_is_wrong_is_refused_in_one_line(tmp_path, text, told):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_profile(str(tmp_path / "wrong.yaml"))
    assert "\n" not in str(caught.value)


def test_a_profile_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_profile(str(tmp_path / "nowhere.yaml"))


# Recipes.


def test_a_recipe_is_had_by_name_and_changed_in_part():
    assert make_config({"recipe": "paper"}).hash == RunConfig().hash
    quick = make_config({"recipe": "quick"})
    assert quick.recipe == RECIPES["quick"]
    chosen = load_profile("laptop").config(recipe="quick", **{"recipe.epochs": 3})
    assert chosen.recipe == dataclasses.replace(RECIPES["quick"], epochs=3)
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        make_config({"recipe": "quik"})
    with pytest.raises(ConfigError, match="unknown recipe 'quik'"):
        load_profile("laptop").config(recipe="quik")


def test_the_quick_recipe_takes_a_fifth_of_the_papers_passes():
    assert 5 * RECIPES["quick"].epochs <= RECIPES["paper"].epochs
