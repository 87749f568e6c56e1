"""The predictor: batches, changes of the input, copies, and what tells two apart."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import fresh
from torch import nn

from nab.data import Normalization
from nab.models import ResNet9
from nab.source_code import NoSource
from nab.stamp import Stamp
from nab.training import Predictor, Runtime
from nab.training.predictor import fitting

CPU = Runtime(torch.device("cpu"), torch.float32, channels_last=False)


def test_predictions_do_not_depend_on_the_batch_they_are_made_in(noise, monkeypatch):
    predictor = fresh(noise)
    whole = predictor.logits(noise.images)
    monkeypatch.setattr("nab.training.predictor.BATCH_SIZE", 7)
    torch.testing.assert_close(predictor.logits(noise.images), whole)
    assert torch.equal(predictor.predict(noise.images), whole.argmax(1))
    assert whole.shape == (64, 4)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad


def test_the_classifier_makes_the_logits_from_the_features_and_these_are_means_of_the_maps(noise):
    predictor = fresh(noise)
    features = predictor.features(noise.images)
    torch.testing.assert_close(predictor.network.classifier(features), predictor.logits(noise.images))
    torch.testing.assert_close(torch.cat(list(predictor.maps(noise.images))).mean((2, 3)), features)


def test_a_change_is_made_of_what_the_network_sees(noise):
    predictor, stamp = fresh(noise), Stamp(size=3, value=2.5)
    predictor.network.eval()
    by_hand = predictor.network(stamp.apply(noise.normalization.apply(noise.images)))
    torch.testing.assert_close(predictor.logits(noise.images, stamp.apply), by_hand)
    assert not torch.allclose(predictor.logits(noise.images), by_hand)
    assert torch.equal(predictor.predict(noise.images, stamp.apply), by_hand.argmax(1))


def test_forward_is_differentiable_and_leaves_the_network_in_its_mode(noise):
    predictor = fresh(noise)
    inputs = predictor.normalize(noise.images).requires_grad_()
    predictor.network.train()
    predictor.forward(inputs).sum().backward()
    assert inputs.grad is not None
    assert predictor.network.training
    predictor.logits(noise.images)
    assert not predictor.network.training


def test_a_copy_has_weights_of_its_own(noise):
    predictor = fresh(noise)
    copy = predictor.copy()
    assert copy.digest == predictor.digest
    with torch.no_grad():
        copy.network.classifier.bias += 1
    torch.testing.assert_close(copy.logits(noise.images), predictor.logits(noise.images) + 1)


def test_a_frozen_predictor_is_the_same_one_without_gradients(noise):
    predictor = fresh(noise)
    assert predictor.frozen() is predictor
    assert not predictor.network.training
    assert not any(p.requires_grad for p in predictor.network.parameters())


class Act(nn.Module):
    """Has no weights."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.abs()


def handed_over(*layers: nn.Module) -> Predictor:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 2, 3)
    assert first.bias is not None
    with torch.no_grad():
        first.weight.fill_(0.5)
        first.bias.fill_(0.5)
    return Predictor(nn.Sequential(first, *layers), Normalization(), CPU)


def test_all_that_answers_depend_on_tells_two_predictors_apart(noise):
    predictor = fresh(noise)
    moved = fresh(noise)
    with torch.no_grad():
        moved.network.classifier.bias[0] += 1e-6
    statistics = fresh(noise)
    statistics.network.stem[1].running_mean[0] += 1e-6
    others = [
        predictor,
        moved,
        statistics,
        dataclasses.replace(predictor, normalization=Normalization(mean=(0.5, 0.5, 0.5))),
        dataclasses.replace(predictor, runtime=dataclasses.replace(predictor.runtime, precision=torch.bfloat16)),
        handed_over(),
        handed_over(nn.ReLU()),
        handed_over(nn.LeakyReLU(0.1)),
        handed_over(nn.LeakyReLU(0.2)),
        handed_over(nn.MaxPool2d(2)),
        handed_over(Act()),
    ]
    digests = [other.digest for other in others]
    assert len(set(digests)) == len(others)
    assert digests == [other.digest for other in others]
    assert fresh(noise).digest == predictor.digest
    assert dataclasses.replace(predictor, architecture=ResNet9(width=4)).digest == predictor.digest, "whoever made it"


def test_a_network_with_a_hook_has_no_digest(noise):
    """It may do anything."""
    predictor = fresh(noise)
    predictor.network.stem.register_forward_hook(lambda *_: None)
    with pytest.raises(NoSource, match="part 'stem' of the network has a hook"):
        _ = predictor.digest


def test_a_layer_that_cannot_be_told_apart_has_no_digest():
    class Local(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    with pytest.raises(NoSource, match="Local"):
        _ = handed_over(Local()).digest


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 500), (28, 500), (32, 500), (64, 125), (224, 10), (4000, 1)], ids=str
)
def test_batches_of_large_images_are_small(side, expected):
    """500 images of 32 x 32 have 512,000 pixels."""
    assert fitting(500, torch.empty(3, side, side)) == expected
