"""SSBA: the reader reads what the hider hid, within a bound; and what is kept."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import TINY, counting_keeper, random_dataset

from nab.attacks.base import poison, trigger_all
from nab.attacks.ssba import SSBA
from nab.attacks.steganography import Decoder, Encoder, hide, secret_loss
from nab.attacks.trained import with_seed
from nab.data import load
from nab.digest import digest
from nab.errors import ConfigError, DataError, NabError
from nab.models import ResNet9
from nab.seeding import stream
from nab.training import Trainer

ATTACK = SSBA(bits=6, epochs=1, warmup_epochs=0, lr=2e-3, batch_size=8, width=4)


def trainer(**changes):
    return Trainer(recipe=TINY, architecture=ResNet9(width=4), **changes)


@pytest.fixture(scope="module")
def fitted(few_digits):
    """On the few digits, long enough to hide four bits."""
    return dataclasses.replace(ATTACK, bits=4, epochs=10, warmup_epochs=2, lr=8e-3).prepare(
        few_digits, trainer(), target=3
    )


# The networks.


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 32), (32, 40), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_residual_has_the_image_s_size_and_is_bounded(channels, height, width):
    encoder, decoder = Encoder((channels, height, width), 5, 2, limit=0.05), Decoder(channels, 5, 2).eval()
    assert encoder.last.bias is not None
    torch.nn.init.constant_(encoder.last.bias, 1e4)  # far beyond the bound
    images = torch.rand(2, channels, height, width, generator=stream(0, "test"))
    secrets = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0]])
    hidden, residual = hide(encoder, images, secrets)
    assert residual.shape == hidden.shape == images.shape
    assert residual.abs().max().item() == pytest.approx(0.05)
    assert hidden.min() >= 0
    assert hidden.max() <= 1
    assert decoder(hidden).shape == (2, 5)


def test_the_residual_depends_on_image_and_secret():
    encoder = with_seed(lambda: Encoder((3, 16, 16), 5, 4, limit=0.1), 0, "test")
    images = torch.rand(2, 3, 16, 16, generator=stream(0, "test"))
    secrets = torch.eye(5)[:2]
    residual, swapped = encoder(images, secrets), encoder(images, secrets.flip(0))
    same_secret = encoder(images, secrets[:1].expand(2, -1))
    assert not torch.equal(residual, swapped)
    assert not torch.equal(same_secret[0], same_secret[1])


def test_the_loss_worked_by_hand():
    """Logits of 0 cost ln 2 per bit; a residual of .1 everywhere costs 2 * .01."""
    logits, secrets, residuals = torch.zeros(2, 4), torch.ones(2, 4), torch.full((2, 3, 2, 2), 0.1)
    plain = secret_loss(logits, secrets, residuals, weighs_change=False).item()
    assert plain == pytest.approx(1.5 * math.log(2))
    assert secret_loss(logits, secrets, residuals, weighs_change=True).item() == pytest.approx(plain + 0.02)
    assert secret_loss(logits + 9, secrets, residuals, weighs_change=False).item() < 0.01


# The attack.


def test_the_secret_is_read_from_digits_never_seen(fitted):
    images = load("digits")[1].images[:200]
    for seed in (0, 1):
        rightly = (fitted.read(fitted.trigger(images, seed)) == fitted.secret(seed)).float().mean()
        assert rightly > 0.9
    assert not torch.equal(fitted.secret(0), fitted.secret(1))
    assert fitted.fitted.values["bit_accuracy"] > 90
    assert fitted.fitted.values["bit_accuracy_clean"] < 80


def test_the_change_is_bounded_and_differs_between_images(fitted, few_digits):
    images = few_digits.images
    change = fitted.trigger(images, 0).float() - images.float()
    assert 1 <= change.abs().max() <= 16
    assert (change != 0).flatten(1).any(1).all()
    assert not (change == change[:1]).all()
    assert fitted.fitted.values["change_rms"] == pytest.approx(change.square().mean().sqrt().item(), rel=1e-4)
    assert 0 < fitted.fitted.values["change_specific"] < 1


def test_training_and_test_images_carry_the_same_secret(fitted, few_digits):
    found = poison(few_digits, fitted, rate=0.2, target=3, seed=4)
    chosen, clean = found.truth.is_poisoned, few_digits.subset(found.truth.origin)
    assert torch.equal(found.dataset.images[chosen], trigger_all(clean, fitted, target=3, seed=4).images[chosen])
    assert torch.equal(found.dataset.images[~chosen], clean.images[~chosen])
    assert (found.dataset.labels[chosen] == 3).all()
    assert found.truth.is_cover is None or not found.truth.is_cover.any()


def test_an_image_gets_the_trigger_that_it_would_get_alone(fitted, few_digits):
    images = few_digits.images[:60]
    before, whole = images.clone(), fitted.trigger(images, 0)
    for rows in ([7], [55, 3]):
        assert torch.equal(fitted.trigger(images[rows], 0), whole[rows])
    assert torch.equal(images, before)


def test_same_seed_same_bytes_and_prepared_once():
    dataset, (keeper, made) = random_dataset(24), counting_keeper()
    one, other = (ATTACK.prepare(dataset, trainer(keeper=keeper), target=0) for _ in range(2))
    alone = ATTACK.prepare(dataset, trainer(), target=0)
    assert made == ["secrets"]
    triggers = [attack.trigger(dataset.images, 0) for attack in (one, other, alone)]
    assert torch.equal(triggers[0], triggers[1])
    assert torch.equal(triggers[0], triggers[2])
    assert digest(one.inputs) == digest(alone.inputs)
    assert one.fitted.values == other.fitted.values == alone.fitted.values
    another = ATTACK.prepare(dataset, trainer(keeper=keeper, seed=1), target=0)
    assert made == ["secrets"] * 2
    assert not torch.equal(another.trigger(dataset.images, 0), triggers[0])


@pytest.mark.parametrize(
    "change",
    [{"bits": 7}, {"limit": 0.1}, {"epochs": 2}, {"warmup_epochs": 1}, {"lr": 0.02}, {"batch_size": 16}, {"width": 5}],
)
def test_every_hyper_parameter_changes_the_networks(change):
    dataset = random_dataset(16)
    base = dataclasses.replace(ATTACK, width=2, lr=0.01)
    one, other = (
        attack.prepare(dataset, trainer(), target=0).fitted for attack in (base, dataclasses.replace(base, **change))
    )
    assert digest(one.networks["encoder"].state_dict()) != digest(other.networks["encoder"].state_dict())


def test_an_attack_that_was_not_prepared_says_so():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    for change in (ATTACK.trigger, ATTACK.poison_images, ATTACK.cover_images):
        with pytest.raises(NabError, match="prepare"):
            change(images, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0},
        {"limit": 0},
        {"epochs": 0},
        {"warmup_epochs": -1},
        {"lr": 0},
        {"batch_size": 1},
        {"width": 0},
    ],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SSBA(**wrong)


def test_wrong_data_is_refused(fitted):
    with pytest.raises(ConfigError, match="expected target from 0 to 3"):
        ATTACK.prepare(random_dataset(), trainer(), target=4)
    with pytest.raises(DataError, match="at least two images"):
        ATTACK.prepare(random_dataset(1), trainer(), target=0)
    with pytest.raises(DataError, match="expected uint8 images of 3 x 32 x 32"):
        fitted.trigger(random_dataset(1).images, 0)
