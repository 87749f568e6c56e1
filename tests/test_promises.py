"""What the core promises, tried by those who would break it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from helpers import TINY, random_dataset

import nab
from nab.data import Dataset
from nab.defenses import NAB, Plain, known_suspects
from nab.detection import Detector, Scored
from nab.digest import describe, digest
from nab.errors import ConfigError, NabError
from nab.experiments import load_profile, make_trainer
from nab.models import Custom, ResNet9
from nab.needs import Given
from nab.pseudolabels import Labeler
from nab.seeding import stream
from nab.source_code import NoSource
from nab.training import Output, Trainer


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(TINY, ResNet9(4))


@dataclasses.dataclass(frozen=True)
class Scaled(Detector):
    """Scores are the positions, times a factor."""

    factor: float = 1.0

    summary: ClassVar[str] = "a test"
    source: ClassVar[str] = "a test"

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        return Scored(torch.arange(len(dataset)).float() * self.factor)


class Undecorated(Scaled):
    """Somebody forgot the decorator."""

    def __init__(self, factor: float) -> None:
        object.__setattr__(self, "own", factor)


# Nobody gets another one's numbers.


def test_a_method_whose_parameters_are_no_fields_is_refused(noise, trainer):
    with pytest.raises(TypeError, match=r"every attribute of Undecorated to be a field of a dataclass, got \['own'\]"):
        nab.find_suspects(noise, Undecorated(2.0), trainer=trainer)


def test_a_field_that_is_called_digest_hides_no_other():
    named = dataclasses.make_dataclass("Named", [("digest", str), ("k", int)], frozen=True)
    named.__module__ = "nab.test"
    assert digest(named("a", 1)) != digest(named("a", 2))


class Shifted(torch.nn.Module):
    """A network whose answers are moved on by some classes."""

    def __init__(self, network: torch.nn.Module, by: int) -> None:
        super().__init__()
        self.network, self.by = network, by

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).roll(self.by, 1)


def test_plain_attributes_of_a_network_are_part_of_its_key(noise, trainer):
    fresh = trainer.fresh(noise, "test")
    keys = {Plain(dataclasses.replace(fresh, network=Shifted(fresh.network, by))).key for by in (0, 1)}
    assert len(keys | {Plain(fresh).key}) == 3


def test_buffers_that_are_not_stored_are_part_of_a_key(noise, trainer):
    fresh = trainer.fresh(noise, "test")
    keys = set()
    for value in (0.0, 1.0):
        fresh.network.register_buffer("extra", torch.tensor(value), persistent=False)
        keys.add(fresh.digest)
    assert len(keys) == 2


def test_a_network_with_a_hook_has_no_key(noise, trainer):
    fresh = trainer.fresh(noise, "test")
    fresh.network.classifier.register_forward_hook(lambda part, inputs, output: -output)
    with pytest.raises(NoSource, match="part 'classifier' of the network has a hook"):
        _ = Plain(fresh).key


def test_a_dataset_that_is_written_into_is_another_one(noise, trainer):
    own = noise.replace(labels=noise.labels.clone())
    before = trainer.train(own, "test").predictor.digest
    own.labels[:] = (own.labels + 1) % 4
    assert trainer.train(own, "test").predictor.digest != before


def test_who_writes_into_what_was_kept_changes_nobody_else_s(noise, trainer):
    first = nab.find_suspects(noise, Scaled(), trainer=trainer)
    first.scores.zero_()
    assert nab.find_suspects(noise, Scaled(), trainer=trainer).scores.tolist() == list(range(64))


@dataclasses.dataclass(frozen=True)
class Greedy(nab.Defense):
    """Suspects everybody, behind the runner's back; or writes into the training set; or asks for the truth."""

    writes: str = "suspicion"

    summary: ClassVar[str] = "a test"
    source: ClassVar[str] = "a test"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects"})

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> nab.defenses.Defended:
        if self.writes == "suspicion":
            given.require_suspicion().is_suspect.fill_(True)
        else:
            dataset.labels.zero_()
        return nab.DEFENSES["none"]().defend(dataset, trainer, given)


def test_a_defense_cannot_change_what_was_suspected(noise, trainer):
    defended = nab.defend(Greedy(), noise, detector=Scaled(), rate=0.25, trainer=trainer)
    assert defended.suspicion is not None
    assert int(defended.suspicion.is_suspect.sum()) == 16


def test_a_defense_that_writes_into_the_training_set_is_told(trainer):
    with pytest.raises(NabError, match="Greedy wrote into the training set"):
        nab.defend(Greedy(writes="labels"), random_dataset(), detector=Scaled(), rate=0.25, trainer=trainer)


def test_no_defense_is_given_the_truth(noise, trainer):
    asking: Any = dataclasses.dataclass(frozen=True)(type("Asking", (Greedy,), {"needs": frozenset({"truth"})}))
    with pytest.raises(ConfigError, match="Asking needs the truth, which no defense may be given"):
        nab.defend(asking(), noise, trainer=trainer)


def test_a_method_cannot_change_the_encoder_of_others(tiny_supply):
    supply = tiny_supply()
    nc = nab.LABELERS["nc"]()
    suspicion = known_suspects(supply.dataset, torch.ones(len(supply.dataset), dtype=torch.bool))
    first = supply.give(nc, suspicion).require_encoder()
    with torch.no_grad():
        next(first.network.parameters()).zero_()
    second = supply.give(nc, suspicion).require_encoder()
    assert bool(next(second.network.parameters()).any())


def test_the_poisoned_rows_do_not_follow_from_the_trainer_s_seed():
    config = load_profile("smoke").config(seed=3)
    trainer = make_trainer(config, device="cpu")
    attacker, defender = (torch.randperm(50, generator=stream(s, "row order")) for s in (config.seed, trainer.seed))
    assert not torch.equal(attacker, defender)


# The same seed gives the same bytes.


def dropping(num_classes: int) -> torch.nn.Module:
    """A network that draws from torch's global generator."""
    layers = [torch.nn.Flatten(), torch.nn.Linear(192, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, num_classes)]
    return torch.nn.Sequential(*layers)


def test_dropout_follows_the_seed_and_leaves_the_global_generator_alone(noise):
    def trained(seed: int) -> str:
        trainer = Trainer(TINY, Custom(function=dropping), seed=seed)
        return trainer.train(noise, "test").predictor.digest

    torch.manual_seed(1)
    first = trained(0)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    assert trained(0) == first
    assert trained(1) != first
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)


def test_what_is_made_equals_what_is_found(trainer):
    def make() -> Output:
        return Output(values={"pair": (1, 2)})

    first, second = (trainer.keep("test", {"a": 1}, make).values for _ in range(2))
    assert first == second == {"pair": [1, 2]}


@pytest.mark.parametrize(
    ("output", "told"),
    [(Output(values={"x": object()}), "values that JSON has"), (Output({"x": 3}), "got something else for x")],  # type: ignore[dict-item]
)
def test_what_cannot_be_kept_is_told_at_once(trainer, output, told):
    with pytest.raises(ConfigError, match=told):
        trainer.keep("test", {"a": 1}, lambda: output)


@pytest.mark.parametrize("name", ["stage", "schema", "device", "precision"])
def test_an_input_of_any_name_counts(trainer, name):
    made = [trainer.keep("test", {name: value}, lambda v=value: Output(values={"v": v})) for value in (1, 2)]
    assert [output.values["v"] for output in made] == [1, 2]


# Outputs of users' methods are checked.


@dataclasses.dataclass(frozen=True)
class Says(Labeler):
    """Gives the labels that it is told."""

    labels: tuple[int, ...] = ()
    dtype: str = "int64"

    summary: ClassVar[str] = "a test"
    source: ClassVar[str] = "a test"

    def label(self, dataset: Dataset, trainer: Trainer, given: Given) -> torch.Tensor:
        return torch.tensor(self.labels, dtype=getattr(torch, self.dtype))


@pytest.mark.parametrize(
    ("labels", "dtype", "told"),
    [
        ((1,), "int64", r"int64 labels for 64 samples, got torch.int64 \(1,\)"),
        ((1,) * 64, "float32", r"int64 labels for 64 samples, got torch.float32 \(64,\)"),
        ((9,) * 64, "int64", "labels from 0 to 3, got 9 to 9"),
    ],
)
def test_labels_that_do_not_fit_are_told(noise, trainer, labels, dtype, told):
    with pytest.raises(ConfigError, match=told):
        nab.find_suspects(noise, Scaled(), Says(labels, dtype), 0.25, trainer=trainer)


@dataclasses.dataclass(frozen=True)
class TooMany(Scaled):
    """Scores more samples than there are."""

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        return Scored(torch.zeros(len(dataset) + 1))


def test_scores_of_another_length_are_told(noise, trainer):
    with pytest.raises(ConfigError, match=r"a score for each of 64 samples, got \(65,\)"):
        nab.find_suspects(noise, TooMany(), trainer=trainer)


def test_a_suspicion_of_another_set_is_told(noise, trainer):
    found = nab.find_suspects(random_dataset(32), Scaled(), rate=0.25, trainer=trainer)
    with pytest.raises(ConfigError, match=r"is_suspect as torch.bool of length 64, got torch.bool \(32,\)"):
        nab.defend(nab.DEFENSES["drop-suspects"](), noise, suspicion=found, trainer=trainer)


def test_a_labeler_is_asked_where_a_suspicion_has_no_labels(noise, trainer):
    found = nab.find_suspects(noise, Scaled(), rate=0.25, trainer=trainer)
    defended = nab.defend(NAB(), noise, suspicion=found, labeler=Says((1,) * 64), trainer=trainer)
    assert defended.suspicion is not None
    assert defended.suspicion.pseudo_labels is not None


def test_a_module_of_python_s_name_is_told_apart_by_its_source(tmp_path, monkeypatch):
    """A package called ``code`` is not Python's."""
    import importlib
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "profile.py").write_text("class Mine:\n    pass\n")
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    mine = importlib.import_module("profile")
    said = describe(mine.Mine)
    assert said.startswith("profile.Mine ")
    monkeypatch.delitem(sys.modules, "profile")


def test_given_optimizers_come_back_with_the_rates_that_they_came_with(noise, trainer):
    predictor = trainer.fresh(noise, "test")
    from nab.training import Batches, fit

    source = Batches(noise, TINY, torch.device("cpu"), torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(predictor.network.parameters(), lr=0.5)
    fit(predictor, source, TINY, optimizers=[optimizer])
    assert optimizer.param_groups[0]["lr"] == 0.5
