"""The networks of SSBA: one hides bits in an image, the other one reads them (Tancik, Mildenhall, Ng, CVPR 2020)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.attacks.trained import pad_to_multiple
from nab.data import Dataset
from nab.training import Batch, Predictor, RawBatches, Recipe, Runtime, Step, fit, freeze

STRIDE = 16
"""The encoder halves the image four times. A size that 16 does not divide is padded by repeating the border."""


class Encoder(nn.Module):
    """A U-Net that makes, from an image and a secret, the residual that is added to the image.

    One dense layer spreads the secret over the image, which gets the result as further channels.

    Args:
        shape: C, H and W of the images.
        bits: length of the secret.
        width: channels of the first two levels; each of the other three has twice as many as the one before.
        limit: bound on every pixel's change, of 1.
    """

    def __init__(self, shape: tuple[int, ...], bits: int, width: int, limit: float) -> None:
        super().__init__()
        channels, *sides = shape
        self.padded = (channels, *(side + -side % STRIDE for side in sides))
        self.limit = limit
        self.spread = nn.Linear(bits, self.padded[0] * self.padded[1] * self.padded[2])
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        steps = list(itertools.pairwise(widths))
        self.stem = _conv(2 * channels, width)
        self.down = nn.ModuleList(_conv(fine, coarse, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(_conv(coarse, fine) for fine, coarse in steps)
        self.merge = nn.ModuleList(_conv(2 * fine, fine) for fine, _ in steps)
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, images: Tensor, secrets: Tensor) -> Tensor:
        """The residual: float32, N x C x H x W, at most ``limit`` in size.

        Args:
            images: float, N x C x H x W, 0 to 1.
            secrets: float, N x bits, 0 or 1.
        """
        height, width = images.shape[2:]
        beside = self.spread(secrets - 0.5).view(-1, *self.padded)
        levels = [self.stem(torch.cat([pad_to_multiple(images, STRIDE) - 0.5, beside], 1))]
        for down in self.down:
            levels.append(down(levels[-1]))
        out = levels.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            out = up(F.interpolate(out, scale_factor=2.0, mode="nearest"))
            out = merge(torch.cat([out, levels.pop()], 1))
        return self.limit * self.last(out).float().tanh()[:, :, :height, :width]


class Decoder(nn.Module):
    """A small network that reads a logit per bit (float32, N x bits) from images (float, N x C x H x W, 0 to 1)."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [
                _conv(before, after),
                nn.BatchNorm2d(after),
                _conv(after, after, stride=2),
                nn.BatchNorm2d(after),
            ]
        self.layers = nn.Sequential(*layers)
        self.read = nn.Linear(4 * widths[-1], bits)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images - 0.5)
        return self.read(F.adaptive_avg_pool2d(maps, 2).flatten(1)).float()


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(inplace=True))


def hide(encoder: nn.Module, images: Tensor, secrets: Tensor) -> tuple[Tensor, Tensor]:
    """Images (0 to 1) that carry the secrets, and the residuals that were added before the sum was clamped."""
    residual = encoder(images, secrets)
    return (images + residual).clamp(0, 1), residual


def secret_loss(logits: Tensor, secrets: Tensor, residuals: Tensor, *, weighs_change: bool) -> Tensor:
    """1.5 times the cross-entropy of the bits plus, if the change counts, twice its mean square; a scalar."""
    loss = 1.5 * F.binary_cross_entropy_with_logits(logits, secrets)
    return loss + 2 * residuals.square().mean() if weighs_change else loss


def train_pair(
    encoder: Encoder,
    decoder: Decoder,
    dataset: Dataset,
    runtime: Runtime,
    draws: torch.Generator,
    *,
    epochs: int,
    warmup_epochs: int,
    batch_size: int,
    lr: float,
) -> None:
    """Train both networks, with a new random secret for every image of every batch.

    Args:
        encoder: hides the secrets; it is frozen at the end.
        decoder: reads the secrets; it is frozen at the end.
        dataset: the clean training set, whose images are not augmented.
        runtime: device and precision.
        draws: on the device; draws the order of the images, and the secrets.
        epochs: passes over the training set.
        warmup_epochs: passes at the beginning in which the size of the change does not count.
        batch_size: samples per update.
        lr: learning rate of Adam.
    """
    source = RawBatches(dataset.images, dataset.labels, batch_size, draws)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr, fused=True)
    recipe = Recipe(epochs=epochs, lr=lr, schedule="constant")
    step = _SecretStep(decoder, draws, warmup_epochs)
    fit(
        Predictor(encoder, dataset.normalization, runtime),
        source,
        recipe,
        step,
        along=[decoder],
        optimizers=[optimizer],
        title="secrets",
    )
    freeze(encoder)
    freeze(decoder)


class _SecretStep(Step):
    """The loss of the encoder, which is the predictor's network, and of a decoder."""

    def __init__(self, decoder: Decoder, draws: torch.Generator, warmup_epochs: int) -> None:
        self._decoder, self._draws, self._warmup_epochs = decoder, draws, warmup_epochs
        self._weighs_change = False

    def begin_epoch(self, epoch: int, predictor: Predictor) -> None:
        self._weighs_change = epoch >= self._warmup_epochs

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        images = batch.images.float() / 255
        shape = (len(images), self._decoder.read.out_features)
        secrets = torch.randint(2, shape, generator=self._draws, device=images.device).float()
        with predictor.runtime.autocast():
            hidden, residuals = hide(predictor.network, images, secrets)
            logits = self._decoder(hidden)
        return secret_loss(logits, secrets, residuals, weighs_change=self._weighs_change)
