"""Random views of images for self-supervised training (Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020).

A few operations change a whole batch at once, on the images' device: one resampling, one color transform, one blur.
Samples differ in the numbers that go into these operations, never in the operations.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_range

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""

CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
"""Two axes of color, on which every gray is zero (YIQ). A hue is an angle between them."""


@dataclasses.dataclass(frozen=True)
class Views:
    """Crop, flip, color jitter, grayscale and blur, as the authors of DBD train SimCLR.

    Attributes:
        scale: smallest and largest share of the image's area that a crop shows.
        ratio: smallest and largest width of a crop, in units of its height; drawn evenly on a logarithmic scale.
        size: height and width of a view, in units of the image's, rounded. A step with smaller views costs less, in
            proportion to their area. Crops show things larger, on average, than whole images do, and smaller views
            make up for that (Touvron, Vedaldi, Douze, Jegou, "Fixing the train-test resolution discrepancy", NeurIPS
            2019).
        flip_rate: share of the views that are mirrored.
        jitter_rate: share of the views whose colors change.
        brightness: jitter multiplies all values by a factor from 1 - ``brightness`` to 1 + ``brightness``.
        contrast: jitter multiplies the distance from the view's mean luma by a factor from such an interval.
        saturation: jitter multiplies the distance from the pixel's own luma by a factor from such an interval.
        hue: jitter turns the hue by up to this share of a full turn, either way.
        gray_rate: share of the views that lose their color.
        blur_rate: share of the views that are blurred.
        sigma: smallest and largest standard deviation of the Gaussian blur, in the view's pixels. The kernel is a tenth
            of the view wide, but at least 3 pixels; it is 3 pixels for views of 32.

    Torchvision's transforms of the same numbers differ in these points:

    - Jitter has a random order there. Here brightness, contrast, saturation and hue follow each other, and values that
      leave the range are cut off once, at the end.
    - A hue turns in HSV there, and in YIQ here, where the luma stays.
    - A crop begins at a whole pixel there, and anywhere here. A side that is longer than the image is drawn again
      there, and cut here.
    - A crop that shrinks is smoothed first there, and not here. Crops shrink only with ``size`` below 1.

    Gray images change in brightness and contrast alone.

    The authors of SimCLR leave out the blur for CIFAR-10; ``blur_rate=0`` does so.

    Raises:
        ConfigError: a value is out of its range.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: float = 1.0
    flip_rate: float = 0.5
    jitter_rate: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray_rate: float = 0.2
    blur_rate: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name, highest in (("scale", 1.0), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, name)
            check_range(f"the lower {name}", low, 0, high, include_low=False)
            check_range(f"the higher {name}", high, low, highest)
        for name in ("flip_rate", "jitter_rate", "gray_rate", "blur_rate", "brightness", "contrast", "saturation"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("hue", self.hue, 0, 0.5)
        check_range("size", self.size, 0, 1, include_low=False)

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of every image.

        Args:
            images: uint8, B x C x H x W.
            generator: on their device.

        Returns:
            float32, B x C x h x w, 0 to 255; h and w are ``size`` times H and W, at least 2.
        """
        u = torch.rand(13, len(images), generator=generator, device=images.device)
        boxes = self._boxes(u[0:4], images.shape[2], images.shape[3])
        height, width = (max(2, round(self.size * side)) for side in images.shape[2:])
        views = crop(images.float(), boxes, u[4] < self.flip_rate, (height, width))
        views = recolor(views, *self._factors(u[5:11]))
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[11]
        return blur(views, torch.where(u[12] < self.blur_rate, sigma, 0.0))

    def _boxes(self, u: Tensor, height: int, width: int) -> Tensor:
        """4 x B: top, left, height and width of crops of ``height`` x ``width`` pixels; ``u``: 4 x B, in [0, 1)."""
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[0]) * height * width
        low, high = (math.log(limit) for limit in self.ratio)
        ratio = (low + (high - low) * u[1]).exp()
        rows, columns = (area / ratio).sqrt().clamp(max=height), (area * ratio).sqrt().clamp(max=width)
        return torch.stack([(height - rows) * u[2], (width - columns) * u[3], rows, columns])

    def _factors(self, u: Tensor) -> Tensor:
        """4 x B: brightness, contrast, saturation and turn, as `recolor` takes them; ``u``: 6 x B, in [0, 1)."""
        strength = u.new_tensor([self.brightness, self.contrast, self.saturation, self.hue])[:, None]
        neutral = u.new_tensor([1.0, 1.0, 1.0, 0.0])[:, None]
        factors = neutral + strength * (2 * u[:4] - 1) * (u[4] < self.jitter_rate)
        factors[2] *= u[5] >= self.gray_rate
        return factors


def crop(images: Tensor, boxes: Tensor, is_flipped: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts of images, all brought to one size (bicubic).

    Args:
        images: float, B x C x H x W, 0 to 255.
        boxes: float, 4 x B; top, left, height and width in pixels, inside the image.
        is_flipped: bool, B; whose left and right are exchanged.
        size: h and w, height and width of what is returned.

    Returns:
        float, B x C x h x w, 0 to 255.
    """
    height, width = images.shape[2:]
    rows, columns = ((torch.arange(side, device=images.device) + 0.5) / side for side in size)
    columns = torch.where(is_flipped[:, None], 1 - columns, columns)
    # grid_sample counts from -1, the image's one edge, to 1, the other.
    y = 2 * (boxes[0, :, None] + rows * boxes[2, :, None]) / height - 1
    x = 2 * (boxes[1, :, None] + columns * boxes[3, :, None]) / width - 1
    shape = (len(images), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], 3)
    cropped = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return cropped.clamp_(0, 255)  # a cubic overshoots


def recolor(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Color jitter, as one affine map of each image's colors.

    Args:
        images: float, B x C x H x W, 0 to 255, C 1 or 3.
        brightness: float, B; multiplies everything.
        contrast: float, B; multiplies the distance from the image's mean luma.
        saturation: float, B; multiplies the distance from the pixel's luma: 0 makes the image gray.
        turn: float, B; of the hue, 1 for once around.

    Returns:
        float, B x C x H x W, 0 to 255.
    """
    count, channels = images.shape[:2]
    pixels = images.flatten(2)
    if channels == 1:
        linear, luma = torch.ones(count, 1, 1, device=images.device), pixels
    else:
        keep_luma, keep_chroma, turn_chroma = _color_maps(images.device)
        angle = 2 * math.pi * turn
        along, across = (saturation * angle.cos())[:, None, None], (saturation * angle.sin())[:, None, None]
        linear, luma = keep_luma + along * keep_chroma + across * turn_chroma, keep_luma[:1] @ pixels
    offset = ((1 - contrast) * brightness)[:, None, None] * luma.mean(2, keepdim=True)
    changed = torch.einsum("bij,bjp->bip", (contrast * brightness)[:, None, None] * linear, pixels)
    return changed.add_(offset).clamp_(0, 255).view_as(images)


@functools.lru_cache(maxsize=4)  # made once per device
def _color_maps(device: torch.device) -> Tensor:
    """3 x 3 x 3: the maps of a color to its luma, to its chroma, and to its chroma turned by a quarter."""
    axes = torch.tensor([LUMA, *CHROMA], dtype=torch.float64)
    luma, chroma = (torch.diag(torch.tensor(part, dtype=torch.float64)) for part in ((1, 0, 0), (0, 1, 1)))
    quarter = torch.tensor([[0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # red goes towards yellow
    maps = [torch.linalg.inv(axes) @ part @ axes for part in (luma, chroma, quarter)]
    return torch.stack(maps).float().to(device)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur. Beyond its edge, an image goes on as its mirror image.

    Args:
        images: float, B x C x H x W.
        sigma: float, B; the standard deviation in pixels, 0 for none.

    Returns:
        float, B x C x H x W.
    """
    reach = max(1, min(images.shape[2:]) // 20)
    distance = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.softmax(-0.5 * (distance / sigma[:, None].clamp(min=1e-3)).square(), 1)
    weights = weights.T[:, :, None, None, None]
    for dim, padding in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded, side = F.pad(images, padding, mode="reflect"), images.shape[dim]
        # A sum of shifted images; a grouped convolution takes three times as long on a CPU.
        images = weights[0] * padded.narrow(dim, 0, side)
        for shift in range(1, 2 * reach + 1):
            images.addcmul_(weights[shift], padded.narrow(dim, shift, side))
    return images
