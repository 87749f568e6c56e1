"""Profiles: settings by name, methods in two forms, studies; mistakes are told in one line."""

from __future__ import annotations

import dataclasses

import pytest

from nab.data import Normalization
from nab.defenses import DEFENSES
from nab.detection import DETECTORS
from nab.errors import ConfigError
from nab.experiments import Method, Profile, load_profile, profile_names
from nab.experiments.profiles import Study
from nab.methods import KINDS
from nab.models import MODELS, ResNet9, ResNet18
from nab.pseudolabels import LABELERS
from nab.stamp import Stamp
from nab.training import RECIPES, Recipe

# Those that ship with the library.


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_valid_and_its_runs_differ(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.summary
    runs = list(profile.expand())
    assert len({run.hash for run, _ in runs}) == len(runs) > 0
    assert {study for _, studies in runs for study in studies} == {study.name for study in profile.grid}


@pytest.mark.parametrize("name", profile_names())
def test_every_method_can_be_named_in_every_profile(name):
    profile = load_profile(name)
    for kind in KINDS:
        for method in KINDS[kind].registry.keys() - {"custom"}:
            chosen = profile.config(**{"defense": "nab", "labeler": "nc"} | {kind: method})
            assert getattr(chosen, kind).name == method


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_a_small_profile_has_small_networks_whichever_is_named(name):
    for model in MODELS.keys() - {"custom"}:
        assert load_profile(name).config(model=model).model.params["width"] == 16


def test_the_paper_profile_has_the_papers_numbers():
    chosen = load_profile("paper").config(defense="nab")
    assert chosen.make_recipe() == Recipe()
    assert (chosen.dataset.name, chosen.make_source().train_size) == ("cifar10", None)
    assert chosen.make_architecture() == ResNet18(width=64)
    assert (chosen.poison_rate, chosen.detection_rate, chosen.verified_rate) == (0.1, 0.05, 0.05)
    assert chosen.make_defense() == DEFENSES["nab"]()
    assert (chosen.make_detector(), chosen.make_labeler()) == (DETECTORS["lga"](), LABELERS["vd"]())


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match="unknown profile 'smok': expected one of laptop, paper, smoke; did you mean 'smoke'"
    ):
        load_profile("smok")


# One of one's own.

MINE = """
summary: mine
run:
  dataset: {name: digits, train_size: 100, normalization: {mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}}
  attack: badnets
  defense: nab
  detector: lga
  labeler: vd
  model: {name: resnet9, width: 16}
  recipe: {name: paper, epochs: 3}
rates:
  blend: 0.3
params:
  detector:
    lga: {epochs: 4}
  defense:
    nab: {stamp: {size: 4, value: 1.5}}
grid:
  - name: main
    runs:
      seed: [0, 1]
      attack: [badnets, blend]
  - name: more
    runs:
      - {attack: [blend], seed: [1]}
      - {model: [resnet9, {name: resnet9, width: 4}], detector.gamma: [0.3]}
"""


@pytest.fixture
def mine(tmp_path) -> Profile:
    (tmp_path / "mine.yaml").write_text(MINE)
    return load_profile(tmp_path / "mine.yaml")


def test_a_profile_of_ones_own_has_the_name_of_its_file(mine):
    assert mine.name == "mine"


def test_a_method_is_a_name_or_a_mapping_with_its_name(mine):
    chosen = mine.config()
    assert chosen.make_recipe() == Recipe(epochs=3)
    assert chosen.make_architecture() == ResNet9(width=16)
    assert chosen.make_source().train_size == 100
    assert chosen.make_source().normalization == Normalization((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert chosen.make_detector().epochs == 4, "of the profile's params"
    assert chosen.make_defense().stamp == Stamp(4, value=1.5)


def test_overrides_take_the_place_of_settings_and_reach_inside(mine):
    chosen = mine.config(
        seed=5, attack=None, **{"recipe.lr": 0.2, "detector.gamma": 0.4, "defense.stamp.size": 3, "model.width": 8}
    )
    assert chosen.seed == 5
    assert chosen.attack.name == "badnets"
    assert chosen.make_recipe() == Recipe(epochs=3, lr=0.2)
    assert (chosen.make_detector().epochs, chosen.make_detector().gamma) == (4, 0.4)
    assert chosen.make_defense().stamp == Stamp(3, value=1.5)
    assert chosen.make_architecture() == ResNet9(width=8)


def test_an_override_may_be_a_method_of_either_form(mine):
    by_mapping = mine.config(detector={"name": "lga", "gamma": 0.4})
    assert (by_mapping.make_detector().epochs, by_mapping.make_detector().gamma) == (4, 0.4)
    assert mine.config(detector=Method(name="lga", params={"gamma": 0.4})) == by_mapping
    assert mine.config(model="resnet18").make_architecture() == ResNet18()


def test_a_profiles_params_belong_to_the_method_they_name(mine):
    assert mine.config(detector="oracle").make_detector() == DETECTORS["oracle"]()


def test_a_profiles_rate_belongs_to_the_attack_it_names(mine):
    assert mine.config(attack="blend").poison_rate == 0.3
    assert mine.config(attack="blend", poison_rate=0.2).poison_rate == 0.2
    assert mine.config().poison_rate == 0.1


def test_a_recipe_is_had_by_name_and_changed_in_part():
    chosen = load_profile("laptop").config(recipe="quick", **{"recipe.epochs": 3})
    assert chosen.make_recipe() == dataclasses.replace(RECIPES["quick"], epochs=3)
    assert 5 * RECIPES["quick"].epochs <= RECIPES["paper"].epochs


def test_an_override_does_not_stay_in_the_profile(mine):
    before = mine.config().hash
    mine.config(**{"recipe.epochs": 50, "detector.epochs": 50, "defense.stamp.size": 2, "dataset.train_size": 90})
    assert mine.config().hash == before


# Studies.


def test_a_grid_is_crossed_slowest_first_and_a_run_belongs_to_all_its_studies(mine):
    runs = list(mine.expand())
    assert [(run.seed, run.attack.name, run.model.params["width"], studies) for run, studies in runs] == [
        (0, "badnets", 16, ("main",)),
        (0, "blend", 16, ("main",)),
        (1, "badnets", 16, ("main",)),
        (1, "blend", 16, ("main", "more")),
        (0, "badnets", 64, ("more",)),  # a name alone stands for the source's values
        (0, "badnets", 4, ("more",)),
    ]
    assert [run.make_detector().gamma for run, _ in runs[-2:]] == [0.3, 0.3]


def test_all_stands_for_every_name_but_oracles(mine):
    assert "ensemble" in mine._every("detector")
    assert set(mine._every("detector")) == DETECTORS.keys() - {"oracle"}
    assert set(mine._every("labeler")) == LABELERS.keys() - {"oracle"}
    assert set(mine._every("defense")) == DEFENSES.keys()
    study = Study(name="all", runs={"detector": "all", "detector.epochs": [2]})
    with pytest.raises(ConfigError, match="unknown parameter of detector"):
        list(mine.model_copy(update={"grid": [study]}).expand())


def test_all_is_for_methods():
    profile = Profile(name="x", summary="x", run={}, grid=[Study(name="s", runs={"seed": "all"})])
    with pytest.raises(ConfigError, match=r"grid, seed: expected a list of values, got 'all' \(which is for dataset, "):
        list(profile.expand())


# Mistakes.


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"sead": 1}, "unknown setting 'sead'.*did you mean 'seed'"),
        ({"width": 1}, "unknown setting 'width'"),
        ({"recipe.epoch": 1}, "epoch"),
        ({"recipes.epochs": 1}, "unknown setting 'recipes.epochs': expected one of attack.PARAMETER"),
        ({"detector.epoch": 1}, "unknown parameter of detector 'lga' 'epoch'.*did you mean 'epochs'"),
        ({"recipe.epochs.x": 1}, "setting recipe.epochs.x: epochs is a single value and has no x"),
        ({"encoder.epochs": 1}, "setting encoder.epochs: this run names no encoder"),
        ({"recipe": {"epochs": 1}}, "setting recipe: expected a name, or a mapping with a name, got {'epochs': 1}"),
        ({"recipe": 3}, "unknown recipe '3'"),
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
        (b"run: {dataset: digits", "not valid YAML"),
        (b"summary: x\nrun: {seed: 2024-13-45}", "not valid YAML: month must be"),
        (b"summary: x\nrun: {seed: " + b"9" * 5000 + b"}", "not valid YAML: Exceeds the limit"),
        (b"summary: \xff", "the file is not UTF-8"),
        (b"a: &a [*a]\nb: " + b"[" * 600, "not valid YAML"),
        (b"", "expected keys such as summary and run, got NoneType"),
        (b"- a\n- b\n", "expected keys such as summary and run, got list"),
        (b"1: 2\n", "expected keys such as summary and run"),
        (b"run: {}", "summary: Field required"),
        (b"summary: x\nrun: {}\nsettings: {}", "settings: Extra inputs"),
        (b"summary: x\nname: ../x\nrun: {}", "profile's name of up to 64 letters"),
        (b"summary: x\nrun: {dataset: digitz}", "unknown dataset 'digitz'"),
        (b"summary: x\nrun: {mode1: resnet9}", "unknown setting 'mode1'.*did you mean 'model'"),
        (b"summary: x\nrun: {1: 2}", "run.1"),
        (b"summary: x\nrun: {defense: nab}", "needs a detector"),
        (b"summary: x\nrun: {attack: null}", "attack: "),
        (b"summary: x\nrun: {}\nparams: {detectors: {lga: {}}}", "unknown kind of method 'detectors'"),
        (b"summary: x\nrun: {}\nparams: {detector: {lgo: {}}}", "unknown detector 'lgo'"),
        (b"summary: x\nrun: {}\nparams: {detector: {lga: {epoch: 1}}}", "unknown parameter of detector 'lga' 'epoch'"),
        (b"summary: x\nrun: {}\nrates: {badnet: 0.1}", "unknown attack 'badnet'"),
        (b"summary: x\nrun: {}\nrates: {badnets: 1.1}", r"rate of badnets in \(0, 1\), got 1.1"),
        (b"summary: x\nrun: {}\ngrid: [{name: a, runs: {sead: [1]}}]", "unknown setting 'sead'"),
        (b"summary: x\nrun: {}\ngrid: [{name: a, runs: [{detecter.x: [1]}]}]", "unknown setting 'detecter.x'"),
        (b"summary: x\nrun: {}\ngrid: [{name: a, runs: {seed: 1}}]", "grid.0.runs"),
        (b"summary: x\nrun: {}\ngrid: {seed: [1]}", "grid: "),
    ],
    ids=lambda value: value.decode(errors="replace")[:60] if isinstance(value, bytes) else "",
)
def test_a_profile_file_that_is_wrong_is_refused_in_one_line(tmp_path, text, told):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_profile(str(path))
    assert str(caught.value).startswith(f"profile {path}: ")
    assert "\n" not in str(caught.value)


def test_a_profile_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: the file cannot be read \(No such file or directory\)"):
        load_profile(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: the file cannot be read \(Is a directory\)"):
        load_profile(str(tmp_path / "folder.yaml"))
