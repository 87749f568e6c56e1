"""SSBA, the sample-specific backdoor attack (Li, Li, Wu, Li, He, Lyu, ICCV 2021): a secret hidden in every image."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nab.attacks.base import to_uint8
from nab.attacks.steganography import Decoder, Encoder, hide, train_pair
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, in_batches, pack, unpack, with_seed
from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.errors import ConfigError, DataError
from nab.seeding import stream
from nab.training import Context, Output, Runtime

MEASURED = 500
"""Training images on which it is measured how well the secret is read."""


@dataclasses.dataclass(frozen=True)
class SSBA(TrainedAttack):
    """One fixed string of bits, hidden in every poison by a network that was trained together with one that reads it.

    What poisons share is that the secret can be read from them. What is added is meant to differ from image to image.
    After the few epochs that are affordable here it hardly does: ``fitted.values["change_specific"]`` says which share
    of the change's energy is an image's own.

    After BackdoorBox: a residual encoder, 20 bits, ``2 L2 + 1.5 BCE``. Left out are its perceptual loss, whose weights
    cannot be shipped, its untrained critic, and the spatial transformer of its reader, for nothing moves the images. In
    place of the perceptual loss the change is bounded: without either, the loss allows changes that anybody sees.
    BackdoorBench trains the network of StegaStamp on a 100-bit code word instead.

    Attributes:
        bits: length of the secret, which is drawn from the seed.
        limit: bound on every pixel's change, of 1; ours.
        epochs: of the training of both networks. The source's 20 pass over 50,000 images; a few suffice with a higher
            learning rate.
        warmup_epochs: at first, only reading counts and not the size of the change.
        lr: of Adam.
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
            raise ConfigError("expected batch_size of at least 2 (batch normalisation needs two samples), got 1")
        check_count("warmup_epochs", self.warmup_epochs)
        check_range("limit", self.limit, 0, 1, include_low=False)
        check_range("lr", self.lr, 0, math.inf, include_low=False, include_high=False)

    def prepare(self, dataset: Dataset, context: Context, *, target: int) -> FittedSSBA:
        """Train both networks, or take them from the cache."""
        inputs = self.stage_inputs(dataset, context, target)
        if len(dataset) < 2:
            raise DataError(f"expected at least two images to train on, got {len(dataset)}")
        kept = context.keep("secrets", inputs, lambda: self._train(dataset, context, target))
        return self._fitted(dataset, context, target, self._networks(dataset, context), kept)

    def _networks(self, dataset: Dataset, context: Context) -> dict[str, nn.Module]:
        """Fresh ones, on the device."""
        shape = tuple(dataset.images.shape[1:])
        make = {
            "encoder": lambda: Encoder(shape, self.bits, self.width, self.limit),
            "decoder": lambda: Decoder(shape[0], self.bits, self.width),
        }
        return {name: with_seed(one, context.seed, f"ssba {name}").to(context.device) for name, one in make.items()}

    def _train(self, dataset: Dataset, context: Context, target: int) -> Output:
        networks = self._networks(dataset, context)
        encoder, decoder = networks["encoder"], networks["decoder"]
        assert isinstance(encoder, Encoder)
        assert isinstance(decoder, Decoder)
        chosen = Runtime.choose(context.device, context.recipe.precision, self.width)
        settings: dict[str, Any] = {"epochs": self.epochs, "warmup_epochs": self.warmup_epochs}
        settings |= {"batch_size": self.batch_size, "lr": self.lr}
        train_pair(encoder, decoder, dataset, chosen, stream(context.seed, "ssba training"), **settings)
        fitted = self._fitted(dataset, context, target, networks, pack(networks))
        return pack(networks, fitted.measure(dataset.images[:MEASURED], context.seed))

    def _fitted(
        self, dataset: Dataset, context: Context, target: int, networks: dict[str, nn.Module], kept: Output
    ) -> FittedSSBA:
        """The attack with the weights of ``kept``."""
        unpack(kept, networks)
        shape = tuple(dataset.images.shape[1:])
        runtime = Runtime(context.device, torch.float32, channels_last=False)
        fitted = Fitted(shape, target, networks, values=kept.values, runtime=runtime)
        return FittedSSBA(**self.hyper_parameters, fitted=fitted)


@dataclasses.dataclass(frozen=True)
class FittedSSBA(SSBA):
    """`SSBA` with its networks."""

    fitted: Fitted = dataclasses.field(default=NOTHING, repr=False, compare=False)

    def secret(self, seed: int) -> Tensor:
        """The string of bits that is hidden in every image; float, 0 or 1."""
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
        """Bits that are read rightly from triggered and from clean images, in percent (50 is chance); the root mean
        square of the change, in grey levels; and the share of that change's energy that differs between images."""
        triggered, secret = self.trigger(images, seed), self.secret(seed)
        change = triggered.float() - images.float()
        energy = change.square().mean()
        return {
            "bit_accuracy": 100 * (self.read(triggered).cpu() == secret).float().mean().item(),
            "bit_accuracy_clean": 100 * (self.read(images).cpu() == secret).float().mean().item(),
            "change_rms": energy.sqrt().item(),
            "change_specific": (change.var(0, correction=0).mean() / energy.clamp(min=1e-12)).item(),
        }
