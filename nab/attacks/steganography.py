"""The networks of SSBA: one hides bits in an image, the other reads them (Tancik, Mildenhall, Ng, CVPR 2020)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.attacks.trained import freeze, pad_to_multiple
from nab.data import Dataset
from nab.errors import NabError
from nab.progress import bar
from nab.training import Runtime

STRIDE = 16
"""The encoder halves the image four times. A size that this does not divide is padded by repeating the border."""


class Encoder(nn.Module):
    """A U-Net from an image and a secret to what is added to the image.

    The secret is spread over the image by one dense layer and stands beside it as further channels.

    Args:
        shape: C, H and W of the images.
        bits: of the secret.
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
    """A small network from an image (float, N x C x H x W, 0 to 1) to a logit per bit (float32, N x bits)."""

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
    """Images (0 to 1) that carry the secrets, and the residuals that were added before the range was cut off."""
    residual = encoder(images, secrets)
    return (images + residual).clamp(0, 1), residual


def secret_loss(logits: Tensor, secrets: Tensor, residuals: Tensor, *, weighs_change: bool) -> Tensor:
    """1.5 times the cross-entropy of the bits, and twice the mean square of the residuals; a scalar."""
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
    """Train both with a new random secret for every image of every batch; they are frozen then.

    Args:
        encoder: hides.
        decoder: reads.
        dataset: the clean training set, whose images are used as they are.
        runtime: device and precision.
        draws: on the CPU; of order and secrets.
        epochs: passes over the training set.
        warmup_epochs: at first the size of the change does not count.
        batch_size: samples per update.
        lr: of Adam.
    """
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr, fused=True)
    encoder.train()
    decoder.train()
    bits = decoder.read.out_features
    with bar("secrets", epochs) as progress:
        for epoch in range(epochs):
            losses = []
            for index in torch.randperm(len(dataset), generator=draws).split(batch_size):
                if len(index) < 2:  # batch normalisation needs two
                    continue
                images = dataset.images[index].to(runtime.device).float() / 255
                secrets = torch.randint(2, (len(index), bits), generator=draws).float().to(runtime.device)
                with runtime.autocast():
                    hidden, residuals = hide(encoder, images.contiguous(), secrets)
                    logits = decoder(hidden)
                loss = secret_loss(logits, secrets, residuals, weighs_change=epoch >= warmup_epochs)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            total = torch.stack(losses).mean().item()
            if not abs(total) < float("inf"):
                raise NabError(f"secrets: the loss is {total} after epoch {epoch + 1}; use a lower learning rate (lr)")
            progress.advance(f"loss {total:.3g}")
    freeze(encoder)
    freeze(decoder)
