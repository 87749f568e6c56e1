"""ABL: what is isolated, what each stage trains on and how, and that unlearning unlearns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import TINY, FixedLogits, counting_keeper, random_dataset
from torch.nn import functional as F

import nab
from nab.data import IDENTITY, Dataset
from nab.defenses import ABL
from nab.defenses.training.abl import Isolation, Unlearning
from nab.errors import ConfigError
from nab.models import ResNet9
from nab.needs import Given
from nab.training import Batch, Predictor, Recipe, Runtime, Trainer

CPU = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
POISONED = 24
FEW = ABL(
    isolation_rate=0.125,
    isolation_epochs=6,
    fine_tuning_epochs=2,
    fine_tuning_lr=0.01,
    unlearning_epochs=12,
    unlearning_lr=0.01,
    batch_size=40,
)
"""Isolates 20 of the 160 samples below."""


def show_trigger(images: torch.Tensor) -> torch.Tensor:
    """The images with a bright lower right quarter."""
    triggered = images.clone()
    triggered[:, :, 4:, 4:] = 255
    return triggered


@pytest.fixture(scope="module")
def planted() -> Dataset:
    """Noise whose labels say nothing, so that the trigger is all there is to learn; the first 24 carry it."""
    dataset = random_dataset(160)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[:POISONED] = show_trigger(images[:POISONED])
    labels[:POISONED] = 0
    return dataset.replace(images=images, labels=labels)


def trainer(**changes) -> Trainer:
    return Trainer(recipe=TINY, architecture=ResNet9(width=8), seed=1, **changes)


@pytest.fixture(scope="module")
def defended(planted) -> nab.defenses.Defended:
    return nab.defend(FEW, planted, trainer=trainer())


def loss(predictor: Predictor, dataset: Dataset) -> float:
    return F.cross_entropy(predictor.logits(dataset.images), dataset.labels).item()


def test_planted_poison_is_isolated(defended):
    """By chance, 3 of the 20 would be poisoned."""
    assert defended.suspicion is not None
    is_suspect = defended.suspicion.is_suspect
    assert int(is_suspect.sum()) == 20
    assert int(is_suspect[:POISONED].sum()) >= 15


def test_unlearning_raises_the_loss_of_isolated_samples(defended, planted):
    isolated = planted.subset(defended.suspicion.is_suspect)
    before, after = (loss(defended.stages[name].predictor, isolated) for name in ("fine-tuning", "unlearning"))
    assert before < 0.3
    assert after > before + 1


def test_a_trigger_no_longer_makes_its_label(defended):
    """Fresh images, on which the network has only the trigger to go by."""
    images = show_trigger(random_dataset(64, seed=9).images)
    before, after = (
        (defended.stages[name].predictor.predict(images) == 0).double().mean() for name in ("isolation", "unlearning")
    )
    assert before > 0.9
    assert after < 0.5


def test_three_stages_come_with_their_curves_and_the_last_is_deployed(defended):
    assert {name: len(stage.curve) for name, stage in defended.stages.items()} == {
        "isolation": 6,
        "fine-tuning": 2,
        "unlearning": 12,
    }
    assert defended.deployed.predictor is defended.stages["unlearning"].predictor


def test_each_stage_goes_on_with_the_network_of_the_last_one(fake_training):
    """Ten samples; the network is surest of the label of samples 3 and 8."""
    pixels = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    pixels[3], pixels[8] = 9, 5
    dataset = Dataset(pixels, torch.tensor([0, 1] * 5), tuple("ab"), "ten", IDENTITY)
    labels = dataset.labels[[3, 8]]
    assert labels.tolist() == [1, 0]

    def answer(images: torch.Tensor) -> torch.Tensor:
        level = images[:, 0, 0, 0]
        return torch.stack([torch.where(level == 5, 5.0, 0.0), torch.where(level == 9, 9.0, 0.0)], 1)

    fake_training.answer = answer
    defended = ABL(isolation_rate=0.2).defend(dataset, Trainer(recipe=TINY), Given())
    isolation, tuning, unlearning = fake_training.calls
    stages = defended.stages
    assert isolation.start is None
    assert isolation.dataset is dataset
    assert tuning.start is stages["isolation"].predictor
    assert unlearning.start is stages["fine-tuning"].predictor
    rest = [position for position in range(10) if position not in (3, 8)]
    assert torch.equal(tuning.dataset.images, pixels[rest])
    assert torch.equal(tuning.dataset.labels, dataset.labels[rest])
    assert torch.equal(unlearning.dataset.images, pixels[[3, 8]])
    assert [type(call.step) for call in fake_training.calls] == [Isolation, type(None), Unlearning]


def test_the_score_is_minus_the_loss():
    dataset = Dataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]), tuple("ab"), "four")
    logits = torch.tensor([[math.log(3), 0.0]]).expand(4, 2)  # three quarters for class 0
    found = ABL(isolation_rate=0.5).isolate(dataset, Predictor(FixedLogits(lambda _: logits), IDENTITY, CPU))
    expected = [math.log(3 / 4), math.log(1 / 4), math.log(1 / 4), math.log(3 / 4)]
    assert found.scores.tolist() == pytest.approx(expected)
    assert found.is_suspect.tolist() == [True, False, False, True]


def test_unlearning_minimizes_minus_the_cross_entropy():
    batch = Batch(torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 2]), torch.arange(3))
    predictor = Predictor(FixedLogits(lambda images: torch.zeros(len(images), 4)), IDENTITY, CPU)
    assert Unlearning().loss(predictor, batch).item() == pytest.approx(-math.log(4))


def test_the_recipes_are_the_authors():
    base = Recipe(precision="float32", label_smoothing=0.1, optimizer="muon")
    isolation, tuning, unlearning = (
        recipe(base) for recipe in (ABL().isolation_recipe, ABL().fine_tuning_recipe, ABL().unlearning_recipe)
    )
    assert [recipe.epochs for recipe in (isolation, tuning, unlearning)] == [10, 60, 4]
    assert {isolation.learning_rate(step, 1) for step in range(10)} == {0.1}
    assert [tuning.learning_rate(step, 1) for step in (0, 39, 40, 59)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert {unlearning.learning_rate(step, 1) for step in range(4)} == {5e-4}
    for recipe in (isolation, unlearning):
        assert recipe == recipe.without_augmentation()
    assert (tuning.crop_padding, tuning.flip, tuning.cutout) == (4, True, 3)
    for recipe in (isolation, tuning, unlearning):
        assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (128, 0.9, 1e-4)
        assert (recipe.optimizer, recipe.nesterov, recipe.label_smoothing) == ("sgd", True, 0.0)
        assert recipe.precision == "float32"
    assert (ABL().isolation_rate, ABL().gamma) == (0.01, 0.5)


def test_all_stages_are_kept(planted):
    keeper, made = counting_keeper()
    brief = dataclasses.replace(FEW, isolation_epochs=1, fine_tuning_epochs=1, unlearning_epochs=1, batch_size=40)
    first, second = (nab.defend(brief, planted, trainer=trainer(keeper=keeper)) for _ in range(2))
    assert made == ["isolation (abl)", "fine-tuning (abl)", "unlearning (abl)"]
    assert first.deployed.key == second.deployed.key
    nab.defend(dataclasses.replace(brief, gamma=5.0), planted, trainer=trainer(keeper=keeper))
    assert made[3:] == ["isolation (abl)", "fine-tuning (abl)", "unlearning (abl)"], "gamma is part of the key"


@pytest.mark.parametrize(("rate", "told"), [(0.01, "at least one of 64"), (0.02, "isolates 1"), (0.99, "isolates 63")])
def test_a_rate_that_isolates_or_leaves_too_few_is_noticed_before_training(noise, rate, told):
    with pytest.raises(ConfigError, match=told):
        nab.defend(ABL(isolation_rate=rate), noise)


@pytest.mark.parametrize(
    "wrong", [{"isolation_rate": 0.0}, {"gamma": 0.0}, {"isolation_lr": 0.0}, {"unlearning_epochs": 0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"expected"):
        ABL(**wrong)
