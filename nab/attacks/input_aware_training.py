"""How the input-aware attack's generators are trained (Nguyen, Tran, NeurIPS 2020): masks first, then patterns."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.generators import Generator, diversity_loss, mask_loss, to_mask, to_pattern
from nab.training import Batch, BatchSource, Predictor, Recipe, Step, fit

GENERATOR_LR = 0.01
ADAM_BETAS = (0.5, 0.9)
CLASSIFIER_MOMENTUM = 0.9
CLASSIFIER_DECAY = 5e-4
"""The source's numbers. It lowers the rates of the second stage from epoch 100 on, which no budget here reaches."""

MASK_MILESTONES = (0.4, 0.8)
"""Shares of the first stage after which its rate is a tenth: epochs 10 and 20 of the source's 25."""


def train_mask(mask: Generator, classifier: Predictor, source: BatchSource, *, epochs: int, density: float) -> None:
    """Stage 1: train a network whose masks are sparse and differ between images.

    Every image is paired with the next one of its shuffled batch, and one pass makes the masks of both. The authors
    draw the other image from a second shuffled copy of the data and make its mask in a second pass, which costs twice
    as much.

    Args:
        mask: the network; it is frozen at the end.
        classifier: tells normalization, precision and device.
        source: batches of the clean training set.
        epochs: passes over the training set.
        density: share of the image that a mask may cover without a loss.
    """
    optimizer = torch.optim.Adam(mask.parameters(), lr=GENERATOR_LR, betas=ADAM_BETAS, fused=True)
    predictor = generator_predictor(mask, classifier)
    fit(predictor, source, mask_recipe(epochs), _MaskStep(density), optimizers=[optimizer], title="masks")
    predictor.frozen()


def mask_recipe(epochs: int) -> Recipe:
    """The first stage's epochs and learning rates."""
    milestones = tuple(math.ceil(share * epochs) for share in MASK_MILESTONES)
    return Recipe(epochs=epochs, lr=GENERATOR_LR, schedule="steps", milestones=milestones, step_factor=0.1)


class _MaskStep(Step):
    def __init__(self, density: float) -> None:
        self._density = density

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        masks = to_mask(predictor.forward(batch.images))
        return mask_loss(batch.images, batch.images.roll(1, 0), masks, masks.roll(1, 0), self._density)


def train_pattern(
    pattern: Generator,
    mask: Generator,
    classifier: Predictor,
    source: BatchSource,
    *,
    target: int,
    epochs: int,
    share: float,
    diversity: float,
    lr: float,
    accumulates: bool,
) -> None:
    """Stage 2: train the pattern network, and the classifier that is to answer an image's own trigger and no other one.

    Args:
        pattern: the network that makes patterns; it is frozen at the end.
        mask: the network that was trained in stage 1.
        classifier: the attacker's classifier; it is frozen at the end.
        source: batches of the clean training set.
        target: the class that the backdoor answers.
        epochs: passes over the training set.
        share: share of every batch that is backdoored, at most a third.
        diversity: weight of the diversity loss.
        lr: learning rate of the classifier.
        accumulates: whether the pattern network's gradients are never set to zero, see `InputAware`.
    """
    adam = AccumulatingAdam if accumulates else torch.optim.Adam
    optimizers = [
        torch.optim.SGD(
            classifier.network.parameters(),
            lr=lr,
            momentum=CLASSIFIER_MOMENTUM,
            weight_decay=CLASSIFIER_DECAY,
            fused=True,
        ),
        adam(pattern.parameters(), lr=GENERATOR_LR, betas=ADAM_BETAS, fused=True),
    ]
    classifier.trainable()
    generators = {"pattern": generator_predictor(pattern, classifier), "mask": generator_predictor(mask, classifier)}
    step = _PatternStep(**generators, target=target, share=share, diversity=diversity)
    recipe = Recipe(epochs=epochs, lr=lr, schedule="constant")
    fit(classifier, source, recipe, step, along=[pattern], optimizers=optimizers, title="patterns")
    for predictor in (classifier, generators["pattern"]):
        predictor.frozen()


class _PatternStep(Step):
    """A share of every batch is backdoored and gets the target as its label. As many images get the pattern and mask of
    another image and keep their label.

    The other image is a clean one of the same shuffled batch; the authors take it from a second batch. One pass makes
    both kinds of patterns, so batch normalization takes its statistics from both; the authors make a pass for each.
    """

    def __init__(self, pattern: Predictor, mask: Predictor, target: int, share: float, diversity: float) -> None:
        self._pattern, self._mask = pattern, mask
        self._target, self._share, self._diversity = target, share, diversity

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        images, labels = batch.images, batch.labels
        count = min(int(self._share * len(images)), len(images) // 3)
        own, crossed, others = (images[k * count : (k + 1) * count] for k in range(3))
        sources = torch.cat([own, others])
        patterns = predictor.normalize(255 * to_pattern(self._pattern.forward(sources)))
        with torch.no_grad():
            masks = to_mask(self._mask.forward(sources))
        changed = mix(torch.cat([own, crossed]), patterns, masks)
        logits = predictor.forward(torch.cat([changed, images[2 * count :]]))
        loss = F.cross_entropy(logits, torch.cat([torch.full_like(labels[:count], self._target), labels[count:]]))
        if count:
            loss = loss + self._diversity * diversity_loss(own, others, patterns[:count], patterns[count:])
        return loss


class AccumulatingAdam(torch.optim.Adam):
    """Adam that follows the sum of all gradients since the first update, because they are never set to zero."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing."""


def generator_predictor(generator: Generator, classifier: Predictor) -> Predictor:
    """The generator with the classifier's normalization, precision and device. It makes images, not logits."""
    runtime = dataclasses.replace(classifier.runtime, channels_last=False, uses_graphs=False)
    return Predictor(generator, classifier.normalization, runtime)


def mix(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """``x + (p - x) m``: the pattern where the mask is 1, and the image where it is 0."""
    return images + (patterns - images) * masks
