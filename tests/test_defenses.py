"""The conformance table: every registered defense on tiny data, and what it can reach."""

from __future__ import annotations

import dataclasses
import functools
import gc
import types
from typing import Any

import pytest
import torch
from helpers import small

import nab
from nab.attacks import BadNets, trigger_all
from nab.data import Dataset, GroundTruth
from nab.defenses import DEFENSES, Defended, Deployed, known_suspects
from nab.defenses.storage import load_deployed, save_deployed
from nab.experiments.monitor import AttackMonitor
from nab.needs import check_needs
from nab.training import Trainer, monitored

every_defense = pytest.mark.parametrize("name", sorted(DEFENSES))


def make(name: str) -> nab.Defense:
    defense: nab.Defense = small(DEFENSES[name])
    return defense


@pytest.fixture(scope="module")
def defended_by() -> dict[str, Defended]:
    """What each defense handed back; filled by `defend_tiny`."""
    return {}


@pytest.fixture
def defend_tiny(poisoned_digits, tiny_trainer, tiny_supply, defended_by):
    """Lets a defense train on the poisoned digits; the suspects are a tenth, half of them poisoned."""
    dataset, truth = poisoned_digits.dataset, poisoned_digits.truth
    poisoned, clean = (part.nonzero().squeeze(1)[:7] for part in (truth.is_poisoned, ~truth.is_poisoned))
    is_suspect = torch.zeros(len(dataset), dtype=torch.bool)
    is_suspect[torch.cat([poisoned, clean])] = True
    suspicion = known_suspects(dataset, is_suspect, truth.true_labels)
    verified = tiny_supply().verified

    def run(name: str, trainer: Trainer | None = None) -> Defended:
        return nab.defend(
            make(name), dataset, suspicion=suspicion, verified=verified, trainer=trainer or tiny_trainer()
        )

    def kept(name: str, trainer: Trainer | None = None) -> Defended:
        if trainer is not None:
            return run(name, trainer)
        if name not in defended_by:
            defended_by[name] = run(name)
        return defended_by[name]

    return kept


@every_defense
def test_a_defense_answers_images_and_says_what_it_went_through(name, defend_tiny, poisoned_digits):
    dataset = poisoned_digits.dataset
    images, labels = dataset.images.clone(), dataset.labels.clone()
    defended = defend_tiny(name)
    answers = defended.deployed.answer(dataset.images)
    assert answers.labels.shape == (len(dataset),)
    assert answers.labels.dtype == torch.int64
    assert 0 <= int(answers.labels.min()) <= int(answers.labels.max()) < dataset.num_classes
    for part, dtype in ((answers.is_refused, torch.bool), (answers.scores, torch.float32)):
        assert part is None or (part.shape == (len(dataset),) and part.dtype == dtype)
    if answers.scores is not None:
        assert bool(answers.scores.isfinite().all())
    assert all(labels.shape == (len(dataset),) for labels in answers.variants.values())
    assert defended.stages, "no stage has a curve"
    for stage in defended.stages.values():
        assert [row["epoch"] for row in stage.curve] == list(range(1, len(stage.curve) + 1))
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"


@every_defense
def test_the_key_of_a_defense_is_its_own(name, defend_tiny):
    """No defense can be stored with another one's evaluation."""
    key = defend_tiny(name).deployed.key
    others = {other: defend_tiny(other).deployed.key for other in DEFENSES if other != name}
    same = {other for other, theirs in others.items() if theirs == key}
    assert same <= ({"none", "audit"} if DEFENSES[name].is_baseline else set())


@every_defense
def test_a_defense_twice_is_the_same_to_the_bit(name, defend_tiny, tiny_trainer):
    again = defend_tiny(name, tiny_trainer())
    assert again.deployed.key == defend_tiny(name).deployed.key
    other = defend_tiny(name, tiny_trainer(seed=4))
    assert other.deployed.key != again.deployed.key, "the seed does nothing"


@every_defense
def test_what_is_read_from_the_cache_is_the_same_to_the_bit(name, defend_tiny, tiny_trainer):
    trainer = tiny_trainer()
    first, second = (defend_tiny(name, trainer) for _ in range(2))
    assert first.deployed.key == second.deployed.key
    assert [len(stage.curve) for stage in first.stages.values()] == [
        len(stage.curve) for stage in second.stages.values()
    ]


@every_defense
def test_a_defense_leaves_the_attacked_model_as_it_was(name, tiny_supply, poisoned_digits, defend_tiny):
    if "attacked model" not in DEFENSES[name].needs:
        return
    supply = tiny_supply()
    defense = make(name)
    given = supply.give(defense, known_suspects(supply.dataset, torch.ones(len(supply.dataset), dtype=torch.bool)))
    assert given.attacked is not None
    before = given.attacked.predictor.digest
    defense.defend(supply.dataset, supply.trainer, given)
    assert given.attacked.predictor.digest == before


@every_defense
def test_what_is_saved_and_loaded_answers_the_same(name, defend_tiny, poisoned_digits, tmp_path):
    deployed = defend_tiny(name).deployed
    loaded = load_deployed(save_deployed(deployed, tmp_path / "deployed.safetensors"), device="cpu")
    assert type(loaded) is type(deployed)
    assert loaded.key == deployed.key
    ours, theirs = (each.answer(poisoned_digits.dataset.images) for each in (deployed, loaded))
    for field in ("labels", "is_refused", "scores"):
        one, other = getattr(ours, field), getattr(theirs, field)
        assert (one is None and other is None) or torch.equal(one, other)


@every_defense
def test_a_defense_is_a_frozen_value_that_describes_itself(name):
    defense = make(name)
    assert hash(defense) == hash(make(name))
    for field in dataclasses.fields(defense):
        assert field.name in repr(defense)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(defense, field.name, None)
    assert defense.summary
    assert defense.source
    assert "truth" not in check_needs(defense.needs)


# What a defense can reach.


class Secret(GroundTruth):
    """A truth that nobody may read."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the truth was read: {name}")


def reachable(*roots: object) -> list[object]:
    """All objects that can be reached from ``roots`` without the interpreter's own tables."""
    own = (types.ModuleType, type, types.FrameType)
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, own):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType):  # what it has closed over, but not the module around it
            waiting += [thing.__closure__, thing.__defaults__, thing.__kwdefaults__]
        elif not isinstance(thing, types.BuiltinFunctionType):
            waiting += gc.get_referents(thing)
    return list(seen.values())


@every_defense
def test_a_defense_reaches_neither_monitor_nor_test_set_nor_truth(
    name, digits, poisoned_digits, tiny_trainer, tiny_supply, monkeypatch
):
    test = digits[1].subset(torch.arange(40))
    triggered = trigger_all(test, BadNets(), target=0, seed=0)
    monitor = AttackMonitor(test, triggered, 20)
    secret = object.__new__(Secret)
    defense = make(name)
    handed: list[tuple[object, ...]] = []

    def spying(self: nab.Defense, dataset: Dataset, trainer: Trainer, given: Any) -> Defended:
        handed.append((self, dataset, trainer, given))
        return original(self, dataset, trainer, given)

    original = type(defense).defend
    monkeypatch.setattr(type(defense), "defend", functools.wraps(original)(spying))
    is_suspect = torch.zeros(len(poisoned_digits.dataset), dtype=torch.bool)
    is_suspect[:14] = True
    labels = torch.zeros(len(is_suspect), dtype=torch.int64)
    trainer = tiny_trainer()
    with monitored(monitor) as measured:
        defended = nab.defend(
            defense,
            poisoned_digits.dataset,
            suspicion=known_suspects(poisoned_digits.dataset, is_suspect, labels),
            verified=tiny_supply().verified,
            trainer=trainer,
            truth=secret,
        )
    hidden = {id(thing) for thing in (monitor, test, test.images, triggered, triggered.images, secret)}
    found = [thing for thing in reachable(*handed[0]) if id(thing) in hidden]
    assert len(handed) == 1
    assert not found
    assert all("clean_accuracy" in row for curve in measured.values() for row in curve)
    assert {stage.purpose for stage in defended.stages.values()} & measured.keys(), "nothing was monitored"
    seen = [row.keys() for stage in defended.stages.values() for row in stage.curve]
    assert all(keys == {"epoch", "loss", "lr"} for keys in seen), "a defense could choose by the test set"


def test_the_search_for_what_can_be_reached_finds_what_is_hidden(digits):
    test = digits[1]

    def closure() -> Dataset:
        return test

    for holder in ({"a": [closure]}, functools.partial(print, test), types.SimpleNamespace(test=test)):
        assert any(thing is test for thing in reachable(holder))


# Keys of what is deployed.


@dataclasses.dataclass(frozen=True, eq=False)
class Hiding(Deployed):
    """Its answers depend on something that is no field."""

    def respond(self, pixels, *, is_full=True):
        return nab.defenses.Response(self.predictor.forward(self.predictor.normalize(pixels)))


def test_an_answer_that_depends_on_what_is_no_field_has_no_key(defend_tiny):
    hiding = Hiding(defend_tiny("none").deployed.predictor)
    assert hiding.key
    object.__setattr__(hiding, "threshold", 0.5)
    with pytest.raises(TypeError, match=r"every attribute of Hiding to be a field, got \['threshold'\]"):
        _ = hiding.key


def test_a_deployed_class_that_is_no_dataclass_has_no_key(defend_tiny):
    class Bare(Hiding):
        pass

    with pytest.raises(TypeError, match="expected Bare to be decorated"):
        _ = Bare(defend_tiny("none").deployed.predictor).key


def test_images_of_another_shape_are_refused(defend_tiny):
    with pytest.raises(nab.errors.ConfigError, match=r"expected images of N x 3 x 32 x 32, got 2 x 1 x 32 x 32"):
        defend_tiny("none").deployed.answer(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
