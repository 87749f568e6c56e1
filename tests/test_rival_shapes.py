"""What defenses of other kinds than NAB ask of the core: two networks, fixed layers, splits that change with the
network."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from helpers import TINY, plain_network, source_of
from torch import Tensor, nn

import nab
from nab.data import Dataset
from nab.defenses import Defended, Defense, Deployed, Response
from nab.defenses.export import Answering
from nab.errors import ConfigError, NabError
from nab.models import Custom, ResNet9, as_network
from nab.needs import Given
from nab.training import Batch, CrossEntropy, Predictor, Trained, Trainer, fit


def scores_of(deployed: Deployed, dataset: Dataset) -> Tensor:
    scores = deployed.answer(dataset.images).scores
    assert scores is not None
    return scores


# Two networks.


@dataclasses.dataclass(frozen=True, eq=False)
class Pair(Deployed):
    """Scores images by how much a second network agrees with the first."""

    expert: Predictor

    summary: ClassVar[str] = "a test"

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        logits, other = (each.forward(each.normalize(pixels)) for each in (self.predictor, self.expert))
        agreement = nn.functional.cosine_similarity(logits, other)
        return Response(logits, agreement < 0, agreement)


@pytest.fixture
def pair(noise, tiny_trainer) -> Pair:
    trainer = tiny_trainer()
    first, second = (trainer.train(noise, purpose).predictor for purpose in ("one", "other"))
    return Pair(first, second)


def test_a_second_network_answers_in_evaluation_mode_and_is_left_as_it_is(pair, noise):
    key, scores = pair.key, scores_of(pair, noise)
    pair.expert.network.train()
    assert torch.equal(scores_of(pair, noise), scores)
    assert pair.key == key


def test_a_second_network_is_saved_and_loaded(pair, noise, tmp_path):
    loaded = nab.load_deployed(nab.save_deployed(pair, tmp_path / "pair.safetensors"), device="cpu")
    assert loaded.key == pair.key
    assert torch.equal(scores_of(loaded, noise), scores_of(pair, noise))


def test_a_second_network_is_moved_too(pair):
    moved = pair.to(torch.device("meta"))
    assert {p.device.type for each in moved.predictors.values() for p in each.network.parameters()} == {"meta"}
    assert {each.runtime.device.type for each in moved.predictors.values()} == {"meta"}


def test_a_module_has_the_weights_of_both_networks(pair):
    guard = nab.Guard(pair)
    count = sum(len(list(each.network.parameters())) for each in (pair.predictor, pair.expert))
    assert len(list(guard.parameters())) == count
    guard.train()
    assert pair.expert.network.training
    guard.eval()
    assert not pair.expert.network.training


def test_an_export_copies_both_networks_and_computes_in_float32(pair):
    exported = Answering(pair).deployed
    for name, predictor in exported.predictors.items():
        assert predictor.runtime.precision == torch.float32
        assert predictor.network is not pair.predictors[name].network
        assert not any(p.requires_grad for p in predictor.network.parameters())


# Answers that are no numbers.


@pytest.mark.parametrize("part", ["predictor", "expert"])
def test_a_network_that_is_beyond_use_is_an_error_not_a_class(pair, noise, part):
    """NaN would be class 0, often the attacker's, and the highest of all scores."""
    with torch.no_grad():
        pair.predictors[part].network.classifier.bias.fill_(torch.nan)
    with pytest.raises(NabError, match=r"Pair answers with NaN \(a .*\): .*lower learning rate"):
        pair.answer(noise.images)


# Layers that no training changes.


class Whitened(nn.Sequential):
    """A network whose first layer is fixed."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(*plain_network(num_classes))
        self[0].weight.requires_grad_(False)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_layer_without_gradients_stays_as_it_was_made(noise, tiny_trainer, optimizer):
    recipe = dataclasses.replace(TINY, optimizer=optimizer)
    trainer: Trainer = tiny_trainer(recipe=recipe, architecture=Custom(function=Whitened))
    begun = trainer.fresh(noise, "training")
    assert begun.fixed == ("module.0.weight",)
    trained = trainer.train(noise, "training").predictor
    on = trainer.train(noise, "more", start=trained.frozen()).predictor
    for predictor in (trained, on):
        assert torch.equal(predictor.network.module[0].weight, begun.network.module[0].weight)
        assert not predictor.network.module[0].weight.requires_grad
        assert not torch.equal(predictor.network.module[4].weight, begun.network.module[4].weight)
    assert not torch.equal(on.network.module[4].weight, trained.network.module[4].weight)


def test_the_fixed_layers_of_the_start_are_part_of_the_key(noise, tiny_trainer):
    start = tiny_trainer().train(noise, "training").predictor
    name = "classifier.weight"
    tuned = [
        tiny_trainer().train(noise, "more", start=dataclasses.replace(start, fixed=fixed)).predictor
        for fixed in ((), (name,))
    ]
    before, free, held = (each.network.get_parameter(name) for each in (start, *tuned))
    assert torch.equal(held, before)
    assert not torch.equal(free, before)


# Splits that change with the network.


class Asking(CrossEntropy):
    """Asks the network of all images before every epoch."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self.dataset = dataset
        self.answers: list[Tensor] = []
        self.modes: list[bool] = []

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:
        self.answers.append(predictor.predict(self.dataset.images))

    def images(self, batch: Batch) -> Tensor:
        return batch.images

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        self.modes.append(predictor.network.training)
        return super().loss(predictor, batch, *beside)


def test_a_step_may_ask_the_network_before_an_epoch_and_training_goes_on_in_training_mode(noise, tiny_trainer):
    predictor, step = tiny_trainer().fresh(noise, "test"), Asking(noise)
    before = predictor.network.get_buffer("stem.1.running_mean").clone()
    fit(predictor, source_of(noise), TINY, step)
    assert len(step.answers) == TINY.epochs
    assert step.modes
    assert all(step.modes)
    assert not torch.equal(predictor.network.get_buffer("stem.1.running_mean"), before)


# Checks before anything is trained.


@dataclasses.dataclass(frozen=True)
class Picky(Defense):
    """Wants a ResNet of some width, and five verified images of every class."""

    summary: ClassVar[str] = "a test"
    source: ClassVar[str] = "a test"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model", "verified"})

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        assert verified is not None
        if verified.labels.bincount(minlength=dataset.num_classes).min() < 5:
            raise ConfigError("expected five verified images of every class")
        if trainer.architecture == ResNet9(4):
            raise ConfigError("expected a wider network")

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        raise AssertionError("it is never reached")


@pytest.mark.parametrize(("count", "told"), [(8, "five verified images"), (64, "a wider network")])
def test_a_defense_sees_verified_images_and_network_before_anything_is_trained(
    noise, tiny_trainer, monkeypatch, count, told
):
    def train(*_: Any, **__: Any) -> Trained:
        raise AssertionError("something was trained")

    monkeypatch.setattr(Trainer, "train", train)
    with pytest.raises(ConfigError, match=told):
        nab.defend(Picky(), noise, trainer=tiny_trainer(), verified=noise.subset(torch.arange(count)))


# Networks.


class Scaled(nn.Module):
    """Has all parts of the protocol, but multiplies the logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner: Any = ResNet9(4).build(num_classes, (3, 8, 8))

    classifier: Any = property(lambda self: self.inner.classifier)
    blocks: Any = property(lambda self: self.inner.blocks)

    def features(self, images: Tensor) -> Tensor:
        return self.inner.features(images)

    def maps(self, images: Tensor) -> Tensor:
        return self.inner.maps(images)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.inner(images)


def test_a_network_whose_classifier_does_not_make_its_logits_is_refused():
    with pytest.raises(ConfigError, match=r"Scaled\.classifier to make the logits from Scaled\.features"):
        as_network(Scaled(4), (3, 8, 8))
