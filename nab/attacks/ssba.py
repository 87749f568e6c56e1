"""SSBA, the sample-specific backdoor attack (Li, Li, Wu, Li, He, Lyu, ICCV 2021): a secret hidden in every image."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from nab.attacks.base import to_uint8
from nab.attacks.steganography import Decoder, Encoder, hide, train_pair
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, in_batches, pack, unpack, with_seed
from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.errors import ConfigError, DataError
from nab.seeding import stream
from nab.training import Output, Runtime, Trainer

MEASURED = 500
"""Training images on which it is measured how well the secret is read."""


@dataclasses.dataclass(frozen=True)
class SSBA(TrainedAttack):
    """A network hides one fixed string of bits in every poison; it was trained together with a network that reads it.

    All that poisons share is that the secret can be read from them. The change is meant to differ from image to image.
    After the few epochs that are affordable here it hardly does: ``fitted.values["change_specific"]`` says which share
    of the change's energy is an image's own.

    The networks and the loss follow BackdoorBox: a residual encoder, 20 bits, ``2 L2 + 1.5 BCE``. Three of its parts
    are left out: the perceptual loss, whose weights cannot be shipped; the critic, which it does not train; and the
    reader's spatial transformer, because nothing moves the images. A bound on the change stands in for the perceptual
    loss, because the rest of the loss allows changes that anybody sees. BackdoorBench trains the network of StegaStamp
    on a 100-bit code word instead.

    Attributes:
        bits: length of the secret, which is drawn from the seed.
        limit: bound on every pixel's change, of 1; our choice.
        epochs: passes over the training set. The source makes 20 passes over 50,000 images; a few suffice with a higher
            learning rate.
        warmup_epochs: passes at the beginning in which only reading counts, and not the size of the change.
        lr: learning rate of Adam.
        batch_size: samples per update.
        width: channels of the networks' first level.
    """

    bits: int = 20
    limit: float = 16 / 255
    epochs: int = 20
    warmup_epochs: int = 2
    lr: float = 1e-4
    batch_size: int = 32
    width: int = 32

    summary: ClassVar[str] = "an invisible string of bits that a network hides in every image"
    source: ClassVar[str] = "Li et al. 2021"

    def __post_init__(self) -> None:
        for name in ("bits", "epochs", "batch_size", "width"):
            check_positive(name, getattr(self, name))
        if self.batch_size < 2:
            raise ConfigError("expected batch_size of at least 2 (batch normalization needs two samples), got 1")
        check_count("warmup_epochs", self.warmup_epochs)
        check_range("limit", self.limit, 0, 1, include_low=False)
        check_range("lr", self.lr, 0, math.inf, include_low=False, include_high=False)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> FittedSSBA:
        """Train both networks, or take them from the cache."""
        inputs = self.stage_inputs(dataset, trainer, target)
        if len(dataset) < 2:
            raise DataError(f"expected at least two images to train on, got {len(dataset)}")
        kept = trainer.keep("secrets", inputs, lambda: self._train(dataset, trainer, target))
        return self._fitted(dataset, trainer, target, self._networks(dataset, trainer), kept)

    def _networks(self, dataset: Dataset, trainer: Trainer) -> dict[str, nn.Module]:
        """Fresh networks, on the device."""
        shape = tuple(dataset.images.shape[1:])
        make = {
            "encoder": lambda: Encoder(shape, self.bits, self.width, self.limit),
            "decoder": lambda: Decoder(shape[0], self.bits, self.width),
        }
        return {name: with_seed(one, trainer.seed, f"ssba {name}").to(trainer.device) for name, one in make.items()}

    def _train(self, dataset: Dataset, trainer: Trainer, target: int) -> Output:
        networks = self._networks(dataset, trainer)
        encoder, decoder = networks["encoder"], networks["decoder"]
        assert isinstance(encoder, Encoder)
        assert isinstance(decoder, Decoder)
        train_pair(
            encoder,
            decoder,
            dataset,
            Runtime.choose(trainer.device, trainer.recipe.precision, encoder),
            stream(trainer.seed, "ssba training", trainer.device),
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
        )
        fitted = self._fitted(dataset, trainer, target, networks, pack(networks))
        return pack(networks, fitted.measure(dataset.images[:MEASURED], trainer.seed))

    def _fitted(
        self, dataset: Dataset, trainer: Trainer, target: int, networks: dict[str, nn.Module], kept: Output
    ) -> FittedSSBA:
        """The attack with the weights of ``kept``."""
        unpack(kept, networks)
        shape = tuple(dataset.images.shape[1:])
        runtime = Runtime(trainer.device, torch.float32, channels_last=False)
        fitted = Fitted(shape, target, networks, values=kept.values, runtime=runtime)
        return FittedSSBA(**self.hyper_parameters, fitted=fitted)


@dataclasses.dataclass(frozen=True)
class FittedSSBA(SSBA):
    """`SSBA` with its networks."""

    fitted: Fitted = dataclasses.field(default=NOTHING, repr=False, compare=False)

    def secret(self, seed: int) -> Tensor:
        """The string of bits that is hidden in every image; float, ``bits`` values of 0 or 1."""
        return torch.randint(2, (self.bits,), generator=stream(seed, "ssba secret")).float()

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        self.fitted.check(images)
        encoder, device = self.fitted.networks["encoder"], self.fitted.runtime.device
        secret = self.secret(seed).to(device)

        @torch.no_grad()
        def change(batch: Tensor) -> Tensor:
            hidden, _ = hide(encoder, (batch.float() / 255).contiguous(), secret.expand(len(batch), -1))
            return to_uint8(255 * hidden)

        return in_batches(change, images, device)

    def read(self, images: Tensor) -> Tensor:
        """What the decoder reads from images (uint8, N x C x H x W); float, N x bits, 0 or 1, on their device."""
        self.fitted.check(images)
        decoder = self.fitted.networks["decoder"]

        @torch.no_grad()
        def bits(batch: Tensor) -> Tensor:
            return (decoder((batch.float() / 255).contiguous()) > 0).float()

        return in_batches(bits, images, self.fitted.runtime.device)

    def measure(self, images: Tensor, seed: int) -> dict[str, float]:
        """How well the secret is hidden and read.

        Returns:
            the share of bits that are read rightly from triggered and from clean images, in percent (50 is chance); the
            root mean square of the change, in gray levels; and the share of the change's energy that differs between
            images.
        """
        triggered, secret = self.trigger(images, seed), self.secret(seed)
        change = triggered.float() - images.float()
        energy = change.square().mean()
        return {
            "bit_accuracy": 100 * (self.read(triggered).cpu() == secret).float().mean().item(),
            "bit_accuracy_clean": 100 * (self.read(images).cpu() == secret).float().mean().item(),
            "change_rms": energy.sqrt().item(),
            "change_specific": (change.var(0, correction=0).mean() / energy.clamp(min=1e-12)).item(),
        }
