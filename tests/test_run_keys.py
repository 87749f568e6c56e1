"""What each stage of a run depends on: what matters changes its key, what does not keeps it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import TINY, random_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nab.attacks import Triggered
from nab.data import Dataset
from nab.defenses.nab import StampHook
from nab.detection import LGA, find_scores
from nab.digest import describe, digest
from nab.errors import ConfigError
from nab.experiments import Profile, RunConfig, RunResult, StageCache, run
from nab.experiments import monitor as monitors
from nab.pseudolabels import VD, guess_labels
from nab.stamp import Stamp
from nab.training import Context, Hook, Output, Recipe, Trained
from nab.training.trainer import fresh_predictor

PROFILE = Profile(
    name="keys",
    summary="as small as can be",
    run={
        "dataset": "digits",
        "train_size": 60,
        "attack": "badnets",
        "poison_rate": 0.1,
        "defense": "nab",
        "detector": "lga",
        "labeler": "vd",
        "detection_rate": 0.2,
        "verified_rate": 0.2,
        "model": "resnet9",
        "width": 4,
        "monitor_size": 20,
        "recipe": {"epochs": 2, "batch_size": 16, "lr": 0.05, "schedule": "one-cycle", "precision": "float32"},
    },
)

ALL = frozenset({"poisoned data", "scores", "pseudo labels", "labeler's network", "network", "evaluation"})
FINAL = frozenset({"network", "evaluation"})
LABELER = frozenset({"pseudo labels", "labeler's network"})
NETWORKS = ALL - {"poisoned data"}

SHARES = st.sampled_from([0.15, 0.25, 0.3, 0.35])
COUNTS = st.integers(3, 40)
RATES = st.sampled_from([0.011, 0.02, 0.2, 0.3])

FIELDS: dict[str, tuple[st.SearchStrategy[Any], frozenset[str]]] = {
    "attack": (st.just("blend"), ALL - {"labeler's network"}),
    "attack.margin": (st.integers(4, 9), ALL - {"labeler's network"}),
    "poison_rate": (st.sampled_from([0.3, 0.4, 0.5]), ALL - {"labeler's network"}),
    "selection": (st.sampled_from(["uniform", "exclude_target"]), ALL - {"labeler's network"}),
    "label_map": (st.just("all-to-all"), ALL - {"labeler's network"}),
    "target": (st.integers(1, 9), ALL - {"labeler's network"}),
    "seed": (st.integers(1, 10**6), ALL),
    "train_size": (st.integers(70, 90), ALL),
    "model": (st.just("resnet18"), NETWORKS),
    "width": (st.just(5), NETWORKS),
    "detector.epochs": (st.integers(3, 19), frozenset({"scores"})),
    "detector.lr": (RATES, frozenset({"scores"})),
    "detector.gamma": (st.floats(0.6, 2), frozenset({"scores"})),
    "detector.batch_size": (COUNTS, frozenset({"scores"})),
    "detector.cosine_extra_epochs": (COUNTS, frozenset({"scores"})),
    "detection_rate": (SHARES, frozenset({"pseudo labels"})),
    "detection_threshold": (st.just(-50.0), frozenset({"pseudo labels"})),
    "labeler.epochs": (COUNTS, LABELER),
    "labeler.lr": (RATES, LABELER),
    "labeler.milestones": (st.just([1, 3]), LABELER),
    "labeler.stamp_when_labelling": (st.just(False), frozenset({"pseudo labels"})),
    "verified_rate": (st.sampled_from([0.3, 0.4, 0.5]), LABELER),
    "defense.stamp.value": (st.floats(1, 9), FINAL | {"pseudo labels"}),
    "defense.stamp.size": (st.integers(3, 9), FINAL | {"pseudo labels"}),
    "defense.stamp.corner": (st.just("lower-right"), FINAL | {"pseudo labels"}),
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
    "recipe.mean": (st.just([0.5, 0.5, 0.5]), NETWORKS),
    "recipe.std": (st.just([0.5, 0.5, 0.5]), NETWORKS),
    "recipe.precision": (st.just("bfloat16"), ALL),
    "monitor_size": (st.integers(21, 50), frozenset({"network"})),
}
"""For every setting: other values, and the stages that have another key then, whatever the data say."""


def reach(stages: frozenset[str]) -> frozenset[str]:
    """Those stages, and the ones that have another key if those have another output."""
    labels = frozenset({"pseudo labels"}) if "scores" in stages else frozenset()
    return stages | labels | (FINAL if stages & {"scores", "pseudo labels"} else frozenset())


SETS = tuple(random_dataset(count, size=20, classes=10, seed=count) for count in (100, 40))
"""In the place of the digits, which are more and larger."""


class Recorder:
    """A keeper that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, stage: str, inputs: dict[str, Any], make) -> Output:
        self.asked.append((stage, digest({"stage": stage, **inputs})))
        return make()


def untrained(dataset: Dataset, recipe: Recipe, *, model: str, width: int, seed: int, device: Any, **options: Any):
    """In the place of training: weights that follow from all that the training would depend on, and from no more."""
    hook, stamp = options["hook"], options["stamp"]
    depends = [dataset, recipe.effective(), model, width, seed, hook and (hook.inputs or {"gamma": hook._gamma})]
    predictor = fresh_predictor(dataset, recipe, model, width, device, seed=int(digest(describe(depends))[:7], 16))
    curve = [{"epoch": 1.0, "monitored": float(options["monitor"] is not None)}]
    return Trained(predictor.with_stamp(stamp), curve, 1.0)


_known: dict[str, dict[str, str]] = {}


def keys_of(config: RunConfig) -> dict[str, str]:
    """By stage; nothing is trained."""
    if config.hash not in _known:
        _known[config.hash] = _record(config)
    return _known[config.hash]


def _record(config: RunConfig) -> dict[str, str]:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nab.training.context.train", untrained)
        patch.setattr("nab.experiments.poisoning.load", lambda name, data_root: SETS)
        patch.setattr("nab.experiments.store.ResultStore.write", lambda store, result: None)
        patch.setattr("nab.experiments.store.ResultStore.read", lambda store, config: None)
        patch.setattr("nab.experiments.store.ResultStore.check_writable", lambda store: None)
        run(config, device="cpu", keeper=recorder)
    names = [stage for stage, _ in recorder.asked]
    if names.count("network") > 1:
        names[names.index("network")] = "labeler's network"
    assert len(set(names)) == len(names)
    return dict(zip(names, (key for _, key in recorder.asked), strict=True))


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


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_several_settings_change_what_each_of_them_changes(data):
    """Of an attack that is another one the parameters are other ones too."""
    fields = data.draw(st.lists(st.sampled_from(sorted(set(FIELDS) - {"attack"})), min_size=2, max_size=5, unique=True))
    chosen = {field: data.draw(FIELDS[field][0], label=field) for field in fields}
    try:
        config = PROFILE.config(**chosen)
        expected = frozenset().union(*(FIELDS[field][1] for field in chosen))
        assert expected <= changed(BASE, config) <= reach(expected)
    except ConfigError:  # some settings exclude each other
        return


def test_every_setting_of_a_run_and_of_its_recipe_is_in_the_table():
    """A setting that is added later must say what depends on it."""
    methods = {"attack", "defense", "detector", "labeler"}
    named = {name for name in FIELDS if "." not in name}
    named |= {"dataset", "defense", "detector", "labeler", "encoder", "recipe"}
    assert named == set(RunConfig.model_fields)
    recipe = {name.removeprefix("recipe.") for name in FIELDS if name.startswith("recipe.")}
    recipe |= {"warmup", "cosine_extra_epochs", "milestones", "step_factor", "optimizer", "filter_lr"}  # below
    assert recipe == {field.name for field in dataclasses.fields(Recipe)}
    assert all(any(name.startswith(f"{method}.") for name in FIELDS) for method in methods)


@pytest.mark.parametrize(
    "field", ["recipe.cosine_extra_epochs", "recipe.milestones", "recipe.step_factor", "recipe.filter_lr"]
)
def test_what_a_schedule_or_optimizer_does_not_look_at_changes_no_key(field):
    """The recipe is one-cycle, which knows neither milestones nor a cosine, with SGD; LGA and VD have their own."""
    value = {"recipe.milestones": [1]}.get(field, 7)
    assert changed(BASE, PROFILE.config(**{field: value})) == set()


def test_an_encoder_matters_to_who_needs_features_and_to_nobody_else():
    assert changed(BASE, PROFILE.config(encoder="barlow-twins")) == set()
    featured = {"labeler": "knn", "encoder": "simclr", "encoder.epochs": 1, "encoder.batch_size": 30}
    one, other, later = (PROFILE.config(**(featured | {"encoder.epochs": epochs})) for epochs in (1, 2, 1))
    assert {"encoder", "pseudo labels"} <= changed(one, other) <= {"encoder", "pseudo labels"} | FINAL
    assert changed(one, later) == set()
    relabelled = PROFILE.config(**featured, detection_rate=0.3)
    assert "encoder" not in changed(one, relabelled), "who is suspected does not matter to it"


@pytest.mark.parametrize(("field", "value"), [("recipe.warmup", 0.7), ("recipe.optimizer", "muon")])
def test_a_detector_and_a_labeler_do_not_depend_on_how_the_final_network_is_updated(field, value):
    assert changed(BASE, PROFILE.config(**{field: value})) == FINAL


# Sharing.


def test_a_run_asks_for_its_stages_in_this_order():
    """The labeller's network is a stage within the pseudo labels."""
    order = ["poisoned data", "scores", "pseudo labels", "labeler's network", "network", "evaluation"]
    assert list(keys_of(BASE)) == order
    assert list(keys_of(PROFILE.config(defense="none"))) == ["poisoned data", "network", "evaluation"]


def test_all_defences_against_an_attack_share_the_poisoned_data():
    with_nab, without = keys_of(BASE), keys_of(PROFILE.config(defense="none"))
    assert with_nab["poisoned data"] == without["poisoned data"]
    for stage in FINAL:
        assert with_nab[stage] != without[stage]


def test_all_methods_that_train_the_attacked_model_share_it(poisoned_digits):
    recorder, other = Recorder(), Recorder()
    context = Context(recipe=TINY, model="resnet9", width=4, keeper=recorder, monitor=None)
    context.train_plainly(poisoned_digits.dataset)
    again = dataclasses.replace(context, keeper=other, verified=poisoned_digits.dataset, truth=poisoned_digits.truth)
    again.train_plainly(poisoned_digits.dataset)
    assert recorder.asked == other.asked
    assert [stage for stage, _ in recorder.asked] == ["network"]


def test_all_attacks_share_the_labelers_network():
    keys = {keys_of(PROFILE.config(attack=attack))["labeler's network"] for attack in ("badnets", "blend", "wanet")}
    assert len(keys) == 1


@pytest.mark.parametrize(("kind", "stage"), [("detector", "scores"), ("labeler", "pseudo labels")])
def test_what_an_oracle_says_is_never_kept(kind, stage):
    keys = keys_of(PROFILE.config(**{kind: "oracle"}))
    assert stage not in keys
    assert {"poisoned data", "network", "evaluation"} <= set(keys)


def test_the_key_of_what_is_trained_knows_what_an_oracle_said():
    right, wrong = (keys_of(PROFILE.config(labeler="oracle", **{"labeler.accuracy": share})) for share in (1.0, 0.3))
    assert right["scores"] == wrong["scores"]
    assert right["network"] != wrong["network"]


@pytest.mark.parametrize("version", ["DETECTOR", "LABELER", "TRAINING", "EVALUATION", "ATTACK"])
def test_a_raised_version_changes_its_stage(monkeypatch, version):
    places = {
        "DETECTOR": ("nab.detection.LGA.version", {"scores"}),
        "LABELER": ("nab.pseudolabels.VD.version", {"pseudo labels"}),
        "TRAINING": ("nab.training.context.TRAINING_VERSION", set(keys_of(BASE))),
        "EVALUATION": ("EVALUATION_VERSION", {"evaluation"}),
        "ATTACK": ("nab.attacks.BadNets.version", {"poisoned data"}),
    }
    place, stages = places[version]
    before = keys_of(BASE)
    if version == "EVALUATION":  # the package's `run` is the function
        monkeypatch.setattr(sys.modules["nab.experiments.run"], place, 77)
    else:
        monkeypatch.setattr(place, 77)
    after = _record(BASE)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


# One part at a time, whatever else would change with it in a run.


DATA = random_dataset(24, size=8)
OTHER = random_dataset(24, size=8, seed=1)
TRIGGERED = Triggered(OTHER.images, DATA.labels, DATA.labels * 0)
MASK = torch.arange(24) % 3 == 0
BASIC = {"recipe": TINY, "model": "resnet9", "width": 4, "seed": 0}
CONTEXTS = {
    "recipe": dataclasses.replace(TINY, mean=(0.5, 0.5, 0.5)),
    "precision": dataclasses.replace(TINY, precision="bfloat16"),
    "model": "resnet18",
    "width": 5,
    "seed": 1,
}


def key_of(ask: Callable[[Context], object], **changes: Any) -> str:
    """Of the first stage that is asked for; nothing is made."""

    def keeper(stage: str, inputs: dict[str, Any], make: object) -> Output:
        raise StopAsking(digest({"stage": stage, **inputs}))

    if "precision" in changes:
        changes["recipe"] = changes.pop("precision")
    with pytest.raises(StopAsking) as asked:
        ask(Context(**({**BASIC, "verified": DATA, "keeper": keeper} | changes)))
    return str(asked.value)


class StopAsking(Exception):  # noqa: N818 - it is no error
    """Carries the key."""


def training(dataset: Dataset = DATA, purpose: str = "x", **options: Any) -> Callable[[Context], object]:
    return lambda context: context.train(dataset, purpose, **options)


def scoring(dataset: Dataset = DATA, detector: LGA = LGA()) -> Callable[[Context], object]:
    return lambda context: find_scores(detector, dataset, context)


def labelling(dataset: Dataset = DATA, labeler: VD = VD(), **changes: Any) -> Callable[[Context], object]:
    how = {"is_suspect": MASK, "stamp": Stamp()} | changes
    return lambda context: guess_labels(labeler, dataset, context, **how)


def judging(test: Dataset = DATA, seed: int = 0, shift: int = 0) -> Callable[[Context], object]:
    triggered = Triggered(DATA.images + shift, DATA.labels, DATA.labels * 0)
    predictor = fresh_predictor(DATA, TINY, "resnet9", 4, torch.device("cpu"), seed=seed)
    return lambda context: sys.modules["nab.experiments.run"]._judge(predictor, test, triggered, context)


def stamping(mask: torch.Tensor = MASK, **stamp: Any) -> StampHook:
    return StampHook(Stamp(**stamp), mask, torch.device("cpu"))


@pytest.mark.parametrize("part", CONTEXTS)
@pytest.mark.parametrize("ask", [training(), scoring(), labelling()], ids=["training", "scoring", "labelling"])
def test_networks_scores_and_labels_depend_on_every_part_of_the_context(ask, part):
    assert key_of(ask) == key_of(ask)
    assert key_of(ask, **{part: CONTEXTS[part]}) != key_of(ask)


def test_only_who_needs_verified_data_depends_on_them():
    for ask in (training(), scoring()):
        assert key_of(ask, verified=OTHER) == key_of(ask)
    assert key_of(labelling(), verified=OTHER) != key_of(labelling())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (training(), training(OTHER)),
        (training(), training(purpose="y")),
        (training(), training(hook=stamping())),
        (training(hook=stamping()), training(hook=stamping(~MASK))),
        (training(hook=stamping()), training(hook=stamping(size=3))),
        (scoring(), scoring(OTHER)),
        (scoring(), scoring(detector=LGA(epochs=3))),
        (labelling(), labelling(OTHER)),
        (labelling(), labelling(labeler=VD(epochs=3))),
        (labelling(), labelling(is_suspect=~MASK)),
        (labelling(), labelling(stamp=Stamp(size=3))),
        (judging(), judging(OTHER)),
        (judging(), judging(seed=1)),
        (judging(), judging(shift=1)),
    ],
)
def test_another_argument_is_another_key(one, other):
    assert key_of(one) != key_of(other)


def test_a_stamp_in_front_of_a_network_matters_where_it_is_watched():
    """Else it is only written before what was trained."""
    assert key_of(training(stamp=Stamp())) == key_of(training())
    watched = [
        key_of(training(stamp=stamp, is_monitored=True), monitor=monitors.AttackMonitor(DATA, TRIGGERED, 4))
        for stamp in (None, Stamp(), Stamp(size=3))
    ]
    assert len({key_of(training()), *watched}) == 4


# Networks.


class Mute(Hook):
    """Does not say what it depends on."""


def test_what_a_hook_without_inputs_trains_is_never_kept(noise):
    recorder = Recorder()
    Context(recipe=TINY, model="resnet9", width=4, keeper=recorder).train(noise, "x", hook=Mute())
    assert recorder.asked == []


def test_what_a_monitor_without_inputs_sees_is_never_kept(noise):
    recorder = Recorder()
    context = Context(recipe=TINY, model="resnet9", width=4, keeper=recorder, monitor=lambda predictor: {})
    context.train(noise, "x", is_monitored=True)
    assert recorder.asked == []
    context.train(noise, "x")
    assert [stage for stage, _ in recorder.asked] == ["network"]


@pytest.mark.parametrize("width", [4, 16])
def test_a_kept_network_is_the_very_same(tmp_path, noise, width):
    cache = StageCache(tmp_path)
    contexts = [Context(recipe=TINY, model="resnet9", width=width, keeper=cache) for _ in range(2)]
    made, found = (context.train(noise, "x") for context in contexts)
    plain = Context(recipe=TINY, model="resnet9", width=width).train(noise, "x")
    assert [context.clock.found for context in contexts] == [[], ["network"]]
    for other in (found, plain):
        assert other.curve == made.curve
        assert torch.equal(other.predictor.logits(noise.images), made.predictor.logits(noise.images))


def test_a_kept_network_is_in_evaluation_mode(tmp_path, noise):
    """As a trained one is; a method may ask the network itself."""
    cache = StageCache(tmp_path)
    for _ in range(2):
        trained = Context(recipe=TINY, model="resnet9", width=4, keeper=cache).train(noise, "x")
        assert not trained.predictor.model.training


# The second time.


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> tuple[RunResult, RunResult]:
    """One run of NAB, made and found, with its clock's word for it."""
    folder = tmp_path_factory.mktemp("twice")
    config = PROFILE.config(train_size=200, **{"detector.epochs": 2, "labeler.epochs": 2, "recipe.epochs": 4})
    one, other = (
        run(config, results=folder / "results", device="cpu", force=True, keeper=StageCache(folder / "stages"))
        for _ in range(2)
    )
    return one, other


@pytest.mark.parametrize("part", ["hash", "metrics", "curve", "examples", "detection_curve", "data", "config"])
def test_a_run_that_is_found_has_the_same_result(twice, part):
    first, second = (result.model_dump(mode="json") for result in twice)
    assert second[part] == first[part]
    assert first[part]


def test_a_run_that_is_found_says_so(twice):
    assert twice[0].found_stages == []
    assert twice[1].found_stages == ["poisoned data", "scores", "pseudo labels", "network", "evaluation"]


def test_a_run_that_is_found_costs_what_it_cost(twice):
    first, second = twice
    assert set(second.seconds) == set(first.seconds) == {
        "data", "detection", "pseudo_labels", "training", "evaluation", "total", "passed"
    }  # fmt: skip
    assert second.seconds["passed"] < first.seconds["passed"]
    for name in first.seconds.keys() - {"passed"}:
        assert second.seconds[name] == pytest.approx(first.seconds[name], rel=0.2, abs=1.0), name
    assert second.images_per_second == pytest.approx(first.images_per_second, rel=1e-5)
