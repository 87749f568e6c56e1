"""Fine-tuning: what it starts from, what it sees, and how it trains."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY, FixedLogits, random_dataset

from nab.data import IMAGENET
from nab.defenses import FineTune, Plain
from nab.errors import ConfigError
from nab.needs import Given
from nab.training import Predictor, Recipe, Runtime, Trained, Trainer


@pytest.fixture
def attacked() -> Trained:
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    network = FixedLogits(lambda images: torch.zeros(len(images), 4))
    return Trained(Predictor(network, IMAGENET, runtime, shape=(3, 8, 8)), [], 1.0)


def test_the_attacked_network_goes_on_with_verified_images_alone(fake_training, noise, attacked):
    verified = random_dataset(8, seed=5)
    trainer = Trainer(recipe=TINY)
    defended = FineTune().defend(noise, trainer, Given(verified=verified, attacked=attacked))
    (call,) = fake_training.calls
    assert call.dataset is verified
    assert call.start is attacked.predictor
    assert call.recipe == FineTune().recipe(TINY)
    assert call.step is None
    assert call.watch is Plain
    assert list(defended.stages) == ["training", "fine-tuning"]
    assert defended.stages["training"] is attacked
    assert defended.deployed.predictor is defended.stages["fine-tuning"].predictor


def test_the_recipe_is_backdoorbench_s():
    base = Recipe(nesterov=True, label_smoothing=0.1, schedule="one-cycle", optimizer="muon", crop_padding=2, cutout=5)
    recipe = FineTune().recipe(base)
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (100, 256, 5e-4)
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.label_smoothing) == ("sgd", 0.9, False, 0.0)
    assert [recipe.learning_rate(epoch, 1) for epoch in (0, 50)] == pytest.approx([0.01, 0.005])
    assert recipe.learning_rate(99, 1) < 1e-5, "the cosine ends with the training"
    assert (recipe.crop_padding, recipe.flip, recipe.cutout) == (2, True, 5), "augmentation is the base recipe's"


def test_digits_against_badnets(tiny_supply, tiny_trainer):
    """The network that was handed over is left alone, and another one, trained on, is handed back."""
    supply = tiny_supply()
    given = supply.give(FineTune())
    before = given.attacked.predictor.digest
    defended = FineTune(epochs=4, batch_size=16, lr=0.05).defend(supply.dataset, tiny_trainer(), given)
    assert given.attacked.predictor.digest == before
    assert defended.deployed.predictor.digest != before
    curve = defended.stages["fine-tuning"].curve
    assert len(curve) == 4
    assert curve[-1]["loss"] < curve[0]["loss"]


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"momentum": 1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        FineTune(**wrong)
