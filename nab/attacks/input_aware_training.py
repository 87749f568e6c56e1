"""How the input-aware attack's generators are trained (Nguyen, Tran, NeurIPS 2020): masks first, then patterns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.generators import Generator, diversity_loss, mask_loss, to_mask, to_pattern
from nab.attacks.trained import freeze
from nab.errors import NabError
from nab.progress import bar
from nab.training import Batches, Predictor

GENERATOR_LR = 0.01
ADAM_BETAS = (0.5, 0.9)
CLASSIFIER_MOMENTUM = 0.9
CLASSIFIER_DECAY = 5e-4
"""The source's. It lowers the rates of the second stage from epoch 100 on, which no budget here reaches."""

MASK_MILESTONES = (0.4, 0.8)
"""Shares of the first stage after which its rate is a tenth: epochs 10 and 20 of the source's 25."""


def train_mask(mask: Generator, batches: Batches, predictor: Predictor, *, epochs: int, density: float) -> None:
    """Stage 1: masks that are sparse and differ between images; the network is frozen then.

    Every image is paired with the next one of its shuffled batch; the source shuffles a second copy of the data for
    that, which costs twice as much.

    Args:
        mask: is trained.
        batches: of the clean training set.
        predictor: whose precision and device are used.
        epochs: passes over the training set.
        density: share of the image that a mask may cover for nothing.
    """
    optimizer = torch.optim.Adam(mask.parameters(), lr=GENERATOR_LR, betas=ADAM_BETAS, fused=True)
    mask.train()

    def update(epoch: int, index: Tensor) -> Tensor:
        passed = sum(epoch >= share * epochs for share in MASK_MILESTONES)
        optimizer.param_groups[0]["lr"] = GENERATOR_LR * 0.1**passed
        images = batches.augment(index).contiguous()
        with predictor.runtime.autocast():
            raw = mask(images)
        masks = to_mask(raw)
        loss = mask_loss(images, images.roll(1, 0), masks, masks.roll(1, 0), density)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    _run("masks", batches, epochs, update)
    freeze(mask)


def train_pattern(
    pattern: Generator,
    mask: Generator,
    predictor: Predictor,
    batches: Batches,
    labels: Tensor,
    *,
    target: int,
    epochs: int,
    share: float,
    diversity: float,
    lr: float,
    accumulates: bool,
) -> None:
    """Stage 2: patterns, and with them the classifier that is to answer each image's own and no other image's.

    Of every batch ``share`` is backdoored and labelled with the target; as many get the pattern and mask of another
    image and keep their label. That other image is a clean one further on in the same shuffled batch.

    Args:
        pattern: is trained; frozen then.
        mask: trained in stage 1.
        predictor: the classifier; is trained; frozen then.
        batches: of the clean training set.
        labels: of the clean training set, on the device.
        target: the class that the backdoor answers.
        epochs: passes over the training set.
        share: of every batch, at most a third.
        diversity: weight of the diversity loss.
        lr: of the classifier.
        accumulates: whether the generator's gradients are never set to zero, see `InputAware`.
    """
    classifier, recipe, runtime = predictor.model, predictor.recipe, predictor.runtime
    for_pattern = torch.optim.Adam(pattern.parameters(), lr=GENERATOR_LR, betas=ADAM_BETAS, fused=True)
    for_classifier = torch.optim.SGD(
        classifier.parameters(), lr=lr, momentum=CLASSIFIER_MOMENTUM, weight_decay=CLASSIFIER_DECAY, fused=True
    )
    pattern.train()
    classifier.requires_grad_(True).train()

    def update(epoch: int, index: Tensor) -> Tensor:
        images, given = batches.augment(index).contiguous(), labels[index]
        count = min(int(share * len(index)), len(index) // 3)
        own, crossed, others = (images[k * count : (k + 1) * count] for k in range(3))
        sources = torch.cat([own, others])
        with runtime.autocast():
            raw = pattern(sources)
            with torch.no_grad():
                raw_masks = mask(sources)
        patterns = recipe.normalise(255 * to_pattern(raw))
        changed = mix(torch.cat([own, crossed]), patterns, to_mask(raw_masks))
        inputs = torch.cat([changed, images[2 * count :]])
        given = torch.cat([torch.full_like(given[:count], target), given[count:]])
        with runtime.autocast():
            logits = classifier(runtime.lay_out(inputs))
        loss = F.cross_entropy(logits.float(), given)
        if count:
            loss = loss + diversity * diversity_loss(own, others, patterns[:count], patterns[count:])
        for_classifier.zero_grad(set_to_none=True)
        if not accumulates:
            for_pattern.zero_grad(set_to_none=True)
        loss.backward()
        for_classifier.step()
        for_pattern.step()
        return loss.detach()

    _run("patterns", batches, epochs, update)
    freeze(pattern)
    freeze(classifier)


def mix(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """``x + (p - x) m``: the pattern where the mask is 1, the image where it is 0."""
    return images + (patterns - images) * masks


def _run(title: str, batches: Batches, epochs: int, update: Callable[[int, Tensor], Tensor]) -> None:
    """``update`` with the epoch and the positions of every batch; it returns the loss."""
    with bar(title, epochs) as progress:
        for epoch in range(epochs):
            total = torch.stack([update(epoch, index) for index in batches.epoch()]).mean().item()
            if not abs(total) < float("inf"):
                raise NabError(
                    f"{title}: the loss is {total} after epoch {epoch + 1}; use fewer epochs or another seed"
                )
            progress.advance(f"loss {total:.3g}")
