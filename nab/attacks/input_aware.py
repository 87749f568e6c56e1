"""The input-aware attack (Nguyen, Tran, NeurIPS 2020): every image has a trigger of its own, which no other shares."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from nab.attacks.base import draw_per_image, to_uint8
from nab.attacks.generators import Generator, make_generator, to_mask, to_pattern
from nab.attacks.input_aware_training import mix, train_mask, train_pattern
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, in_batches, pack, train_surrogate, unpack
from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.errors import DataError
from nab.seeding import stream
from nab.training import Batches, Output, Predictor, Runtime, Trainer

BANK_SIZE = 256
"""Training images from which the foreign triggers of covers are made."""

MEASURED = 1000
"""Training images on which the attack's success against its own classifier is measured."""


@dataclasses.dataclass(frozen=True)
class InputAware(TrainedAttack):
    """One network draws a pattern for each image and another a sparse mask, ``x' = x + (G(x) - x) M(x)``.

    Covers get the pattern and mask of another image and keep their label, so that a network must learn that only an
    image's own trigger counts. The generators are trained against a classifier of the attacker: first the masks, then
    the patterns together with the classifier; see `nab.attacks.input_aware_training`.

    The training departs from the authors' code in four ways. Batches are augmented as the trainer's recipe says, where
    the authors crop, rotate and flip. An image lends its trigger to another one of its own batch, where the authors
    draw a second batch. The generators see both images in one pass, so that batch normalization takes its statistics
    from both, where the authors make two passes. And the authors train the victim; here a poisoned set is handed over,
    so the frozen generators are applied once to images that are not augmented.

    Attributes:
        mask_epochs: passes over the training set in which masks are trained.
        generator_epochs: passes in which patterns and classifier are trained. The source needs 600; 40 is our choice.
            What matters is the success rate in ``fitted.values``, which should be above 90 %.
        density: share of the image that a mask may cover without a loss.
        backdoor_share: share of every batch that is backdoored in training, at most a third; as many images get a
            foreign trigger.
        diversity: weight of the loss that keeps patterns of different images apart.
        generator_width: channels of the networks' first level. Images below 32 pixels get half as many, and two levels
            instead of three. The source's 32 costs more than the classifier on a CPU.
        classifier_lr: learning rate of SGD on the classifier.
        batch_size: samples per update in both stages.
        surrogate_epochs: passes of plain training before the classifier meets the generators, so that they need fewer
            epochs; 0, as in the source, for none.
        cover_rate: share of the training set that becomes covers.
        accumulate_gradients: whether the pattern network's gradients are never set to zero, so that every update
            follows the sum of all gradients so far. The authors' code, BackdoorBench and BackdoorBox do this, which
            looks like an oversight.
    """

    mask_epochs: int = 25
    generator_epochs: int = 40
    density: float = 0.032
    backdoor_share: float = 0.1
    diversity: float = 1.0
    generator_width: int = 32
    classifier_lr: float = 0.01
    batch_size: int = 128
    surrogate_epochs: int = 0
    cover_rate: float = 0.1
    accumulate_gradients: bool = False

    summary: ClassVar[str] = "a pattern and a mask that two networks make for every image anew"
    source: ClassVar[str] = "Nguyen, Tran 2020"
    allows_all_to_all: ClassVar[bool] = False
    """The source allows it, but `prepare` is told of one target only."""

    def __post_init__(self) -> None:
        for name in ("mask_epochs", "generator_epochs", "generator_width", "batch_size"):
            check_positive(name, getattr(self, name))
        check_range("density", self.density, 0, 1)
        check_range("backdoor_share", self.backdoor_share, 0, 1 / 3, include_low=False)
        check_range("diversity", self.diversity, 0, float("inf"), include_high=False)
        check_range("classifier_lr", self.classifier_lr, 0, float("inf"), include_low=False, include_high=False)
        check_count("surrogate_epochs", self.surrogate_epochs)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> FittedInputAware:
        """Train the generators, or take them from the cache."""
        inputs = self.stage_inputs(dataset, trainer, target)
        if len(dataset) < 2:
            raise DataError(
                f"expected at least two images, of which one lends the other its trigger, got {len(dataset)}"
            )
        kept = trainer.keep("generators", inputs, lambda: self._train(dataset, trainer, target))
        return self._fitted(dataset, trainer, target, self._networks(dataset, trainer), kept)

    def _networks(self, dataset: Dataset, trainer: Trainer) -> dict[str, Generator]:
        """Fresh generators, on the device."""
        channels, *_ = shape = tuple(dataset.images.shape[1:])
        outputs = {"pattern": channels, "mask": 1}
        make = {
            name: make_generator(shape, count, self.generator_width, trainer.seed, f"input-aware {name}")
            for name, count in outputs.items()
        }
        return {name: network.to(trainer.device) for name, network in make.items()}

    def _train(self, dataset: Dataset, trainer: Trainer, target: int) -> Output:
        """Train in both stages; the generators' weights, and how well they do."""
        networks = self._networks(dataset, trainer)
        classifier = self._classifier(dataset, trainer)
        recipe = dataclasses.replace(trainer.recipe, batch_size=self.batch_size)
        generator = stream(trainer.seed, "input-aware batches", trainer.device)
        source = Batches(dataset, recipe, trainer.device, generator)
        train_mask(networks["mask"], classifier, source, epochs=self.mask_epochs, density=self.density)
        train_pattern(
            networks["pattern"],
            networks["mask"],
            classifier,
            source,
            target=target,
            epochs=self.generator_epochs,
            share=self.backdoor_share,
            diversity=self.diversity,
            lr=self.classifier_lr,
            accumulates=self.accumulate_gradients,
        )
        fitted = self._fitted(dataset, trainer, target, networks, pack(networks))
        return pack(networks, fitted.measure(dataset, classifier, trainer.seed))

    def _classifier(self, dataset: Dataset, trainer: Trainer) -> Predictor:
        """The attacker's own classifier, fresh or trained for a while."""
        if self.surrogate_epochs:
            return train_surrogate(dataset, trainer, self.surrogate_epochs)
        return trainer.fresh(dataset, "input-aware classifier")

    def _fitted(
        self, dataset: Dataset, trainer: Trainer, target: int, networks: dict[str, Generator], kept: Output
    ) -> FittedInputAware:
        """The attack with the weights of ``kept``."""
        unpack(kept, networks)
        order = torch.randperm(len(dataset), generator=stream(trainer.seed, "input-aware bank"))
        fitted = Fitted(
            tuple(dataset.images.shape[1:]),
            target,
            networks,
            {"bank": dataset.images[order[:BANK_SIZE]]},
            kept.values,
            dataset.normalization,
            Runtime(trainer.device, torch.float32, channels_last=False),
        )
        return FittedInputAware(**self.hyper_parameters, fitted=fitted)


@dataclasses.dataclass(frozen=True)
class FittedInputAware(InputAware):
    """`InputAware` with its generators."""

    fitted: Fitted = dataclasses.field(default=NOTHING, repr=False, compare=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        self.fitted.check(images)
        return self._mix(images, images)

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        """Each image with the pattern and mask of an image of the bank, drawn by content and seed."""
        self.fitted.check(images)
        return self._mix(images, self.partners(images, seed))

    def partners(self, images: Tensor, seed: int) -> Tensor:
        """For each image the one of the bank whose trigger it gets as a cover, never itself; uint8, N x C x H x W."""
        bank = self.fitted.tensors["bank"].to(images.device)
        draws = draw_per_image(
            images, seed, "input-aware partner", lambda generator: torch.randperm(len(bank), generator=generator)[:2]
        )
        is_same = (bank[draws[:, 0]] == images).flatten(1).all(1)
        return bank[torch.where(is_same, draws[:, 1], draws[:, 0])]

    def masks(self, images: Tensor) -> Tensor:
        """The masks of images (uint8, N x C x H x W); float, N x 1 x H x W, 0 to 1."""
        return in_batches(lambda batch: to_mask(self._apply("mask", batch)), images, self.fitted.runtime.device)

    def patterns(self, images: Tensor) -> Tensor:
        """The patterns of images (uint8, N x C x H x W); float, N x C x H x W, 0 to 1."""
        return in_batches(lambda batch: to_pattern(self._apply("pattern", batch)), images, self.fitted.runtime.device)

    def _mix(self, images: Tensor, sources: Tensor) -> Tensor:
        return to_uint8(mix(images.float(), 255 * self.patterns(sources), self.masks(sources)))

    @torch.no_grad()
    def _apply(self, name: str, images: Tensor) -> Tensor:
        """A generator's raw output."""
        return self.fitted.networks[name](self.fitted.normalization.apply(images).contiguous())

    def measure(self, dataset: Dataset, classifier: Predictor, seed: int) -> dict[str, Any]:
        """How well the attack does against the attacker's own classifier, on training images without augmentation.

        Returns:
            in percent, the attack success rate, the accuracy with foreign triggers and the accuracy without any; and
            the masks' mean, 0 to 1.
        """
        index = torch.randperm(len(dataset), generator=stream(seed, "input-aware measuring"))[:MEASURED]
        images, labels = dataset.images[index], dataset.labels[index]

        def share(answers: Tensor, wanted: Tensor | int) -> float:
            return 100 * (answers == wanted).float().mean().item()

        eligible = labels != self.fitted.target
        return {
            "attack_success_rate": share(classifier.predict(self.trigger(images[eligible], seed)), self.fitted.target),
            "cross_accuracy": share(classifier.predict(self.cover_images(images, seed)), labels),
            "clean_accuracy": share(classifier.predict(images), labels),
            "mask_mean": self.masks(images).mean().item(),
        }
