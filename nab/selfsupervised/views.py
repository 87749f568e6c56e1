"""Random views of images for self-supervised training (Chen, Kornblith, Norouzi, Hinton, SimCLR, ICML 2020).

A whole batch is changed at once, on the images' device, by a few operations: one resampling, one colour transform, one
blur. What differs from sample to sample are numbers in these operations, never the operations.
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
"""Two axes of colour, zero for every grey (YIQ); a hue is an angle between them."""


@dataclasses.dataclass(frozen=True)
class Views:
    """Crop, flip, colour jitter, greyscale and blur, as the authors of DBD train SimCLR.

    Attributes:
        scale: smallest and largest share of the image's area that a crop shows.
        ratio: smallest and largest width of a crop, in units of its height; drawn evenly on a logarithmic scale.
        size: height and width of a view, in units of the image's, rounded. Below 1 a step costs less, in proportion to
            the area. Crops show things larger than the whole image does, on average, and smaller views make up for that
            (Touvron, Vedaldi, Douze, Jegou, "Fixing the train-test resolution discrepancy", NeurIPS 2019).
        flip_rate: share of the views that are mirrored.
        jitter_rate: share of the views whose colours change.
        brightness: their brightness is multiplied by 1 - ``brightness`` to 1 + ``brightness``.
        contrast: likewise, the distance from the view's mean luma.
        saturation: likewise, the distance from the pixel's own luma.
        hue: their hue turns by up to so much of a full turn, either way.
        grey_rate: share of the views that lose their colour.
        blur_rate: share of the views that are blurred.
        sigma: smallest and largest standard deviation of the Gaussian blur, in the view's pixels; its kernel is a tenth
            of the view wide, 3 pixels at least and for views of 32.

    Where this differs from torchvision's transforms of the same numbers: jitter has a fixed order (brightness,
    contrast, saturation, hue), not a random one, and cuts off what leaves the range once, at its end; a hue turns in
    YIQ, where the luma stays, not in HSV; a crop may begin between pixels, and a side longer than the image is cut,
    not drawn again; a crop that shrinks is not smoothed before (it can only shrink with ``size`` below 1). Of grey
    images, only brightness and contrast change.

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
    grey_rate: float = 0.2
    blur_rate: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name, highest in (("scale", 1.0), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, name)
            check_range(f"the lower {name}", low, 0, high, include_low=False)
            check_range(f"the higher {name}", high, low, highest)
        for name in ("flip_rate", "jitter_rate", "grey_rate", "blur_rate", "brightness", "contrast", "saturation"):
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
        views = recolour(views, *self._factors(u[5:11]))
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
        """4 x B: brightness, contrast, saturation and turn, as `recolour` takes them; ``u``: 6 x B, in [0, 1)."""
        strength = u.new_tensor([self.brightness, self.contrast, self.saturation, self.hue])[:, None]
        neutral = u.new_tensor([1.0, 1.0, 1.0, 0.0])[:, None]
        factors = neutral + strength * (2 * u[:4] - 1) * (u[4] < self.jitter_rate)
        factors[2] *= u[5] >= self.grey_rate
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


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Colour jitter, as one affine map of each image's colours.

    Args:
        images: float, B x C x H x W, 0 to 255, C 1 or 3.
        brightness: float, B; multiplies everything.
        contrast: float, B; multiplies the distance from the image's mean luma.
        saturation: float, B; multiplies the distance from the pixel's luma: 0 makes the image grey.
        turn: float, B; of the hue, 1 for once around.

    Returns:
        float, B x C x H x W, 0 to 255.
    """
    count, channels = images.shape[:2]
    pixels = images.flatten(2)
    if channels == 1:
        linear, luma = torch.ones(count, 1, 1, device=images.device), pixels
    else:
        keep_luma, keep_chroma, turn_chroma = _colour_maps(images.device)
        angle = 2 * math.pi * turn
        along, across = (saturation * angle.cos())[:, None, None], (saturation * angle.sin())[:, None, None]
        linear, luma = keep_luma + along * keep_chroma + across * turn_chroma, keep_luma[:1] @ pixels
    offset = ((1 - contrast) * brightness)[:, None, None] * luma.mean(2, keepdim=True)
    changed = torch.einsum("bij,bjp->bip", (contrast * brightness)[:, None, None] * linear, pixels)
    return changed.add_(offset).clamp_(0, 255).view_as(images)


@functools.lru_cache(maxsize=4)  # made once per device
def _colour_maps(device: torch.device) -> Tensor:
    """3 x 3 x 3: the maps of a colour to its luma, to what is left, and to that turned by a quarter."""
    axes = torch.tensor([LUMA, *CHROMA], dtype=torch.float64)
    luma, chroma = (torch.diag(torch.tensor(part, dtype=torch.float64)) for part in ((1, 0, 0), (0, 1, 1)))
    quarter = torch.tensor([[0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # red goes towards yellow
    maps = [torch.linalg.inv(axes) @ part @ axes for part in (luma, chroma, quarter)]
    return torch.stack(maps).float().to(device)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur; beyond its edge an image goes on as in a mirror.

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
