"""The networks of the input-aware attack (Nguyen, Tran, NeurIPS 2020): one draws a pattern for an image, one a mask."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nab.attacks.trained import pad_to_multiple, with_seed

MAPPING = 2 + 1e-7
"""The source divides by this, so that no value is quite 0 or 1."""


class Generator(nn.Module):
    """An hourglass, without shortcuts from its narrowing to its widening half.

    On the way down each level has two blocks of convolution, batch normalization and ReLU, and then pooling. On the way
    up each level has a bilinear enlargement and two blocks. The last block has no ReLU. BackdoorBox enlarges by
    repeating pixels instead.

    Input: normalized images, float, N x ``channels`` x H x W. Output: float, N x ``outputs`` x H x W. A size that is no
    multiple of ``2 ** levels`` is padded by repeating the border, and the result is cropped.
    """

    def __init__(self, channels: int, outputs: int, *, width: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        widths = [width * 2**level for level in range(levels)]
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths[:-1]], widths, strict=True):
            down += [_block(before, after), _block(after, after), nn.MaxPool2d(2)]
        up: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], outputs], strict=True):
            up += [nn.Upsample(scale_factor=2, mode="bilinear"), _block(before, before), _block(before, after)]
        up[-1] = up[-1][:-1]  # type: ignore[index]
        self.layers = nn.Sequential(*down, _block(widths[-1], widths[-1]), *up)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return self.layers(pad_to_multiple(images, 2**self.levels))[:, :, :height, :width]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, momentum=0.05), nn.ReLU(inplace=True))


def make_generator(shape: tuple[int, ...], outputs: int, width: int, seed: int, purpose: str) -> Generator:
    """A fresh network for images of ``shape`` (C, H, W).

    Images of at least 32 pixels get three levels, smaller ones two of half the width, as the source has them for
    CIFAR-10 and for MNIST.
    """
    is_large = min(shape[1:]) >= 32
    channels, levels = (width, 3) if is_large else (max(width // 2, 1), 2)
    network = with_seed(lambda: Generator(shape[0], outputs, width=channels, levels=levels), seed, purpose)
    assert isinstance(network, Generator)
    return network


def to_pattern(raw: Tensor) -> Tensor:
    """A pattern in (0, 1) from a generator's output."""
    return raw.float().tanh() / MAPPING + 0.5


def to_mask(raw: Tensor) -> Tensor:
    """A mask in (0, 1), nearly black and white, from a generator's output."""
    return (20 * to_pattern(raw) - 10).tanh() / MAPPING + 0.5


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Root of the mean squared difference of every pair of images (N x C x H x W); float, N.

    The tiny addend gives the root a gradient where both images of a pair are equal.
    """
    return (one - other).square().flatten(1).mean(1).add(1e-12).sqrt()


def diversity_loss(images: Tensor, others: Tensor, outputs: Tensor, other_outputs: Tensor) -> Tensor:
    """Mean ratio of the distance between two images to that between what was made for them; a scalar."""
    return (distance(images, others) / (distance(outputs, other_outputs) + 1e-7)).mean()


def mask_loss(images: Tensor, others: Tensor, masks: Tensor, other_masks: Tensor, density: float) -> Tensor:
    """100 times the mean over pixels of what the masks exceed ``density`` by, plus the diversity loss; a scalar."""
    return 100 * F.relu(masks - density).mean() + diversity_loss(images, others, masks, other_masks)
