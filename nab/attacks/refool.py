"""Refool (Liu, Ma, Bailey, Lu, ECCV 2020, arXiv:2007.02343): the reflection of another scene, as in a window pane."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.base import Attack, draw_per_image, not_prepared, to_uint8
from nab.attacks.patterns import draw_bank
from nab.checks import check_positive, check_range
from nab.data import Dataset
from nab.training import Trainer

GAMMA = 2.2
MAX_SIGMA = 5
"""The blur's largest standard deviation, in pixels."""


@dataclasses.dataclass(frozen=True)
class Refool(Attack):
    """A scene is mixed with a reflection in linear light: a ghost (two shifted copies) or a blurred one.

    Images B and reflections R in [0, 1] are raised to 2.2 before, and to 1 / 2.2 after. A ghost is
    ``alpha B + (1 - alpha) (b R + (1 - b) R shifted)``. A blurred reflection is ``alpha B + w blur(R)``, where values
    that overflow are first pulled down, and w falls off from the middle. Each image draws for itself, at test time too:
    the reflection, ghost or blur, a shift of 3 to 8 pixels, b, and a width of the blur of 1 to 5 pixels.

    This is the dirty-label version of BackdoorBench, backdoor-toolbox and BackdoorBox. The original keeps labels, and
    selects the reflections that work best on one network after another. All of them take photographs from elsewhere;
    here other images of the training set serve, so the attack needs `prepare` and no download. Shifts and blurs shrink
    with images below 32 pixels; below 28 little of a scene is left to reflect.

    Attributes:
        ghost_rate: share of ghosts, in [0, 1]. 0.49 as in BackdoorBench and BackdoorBox; backdoor-toolbox has 1.
        alpha: share of the image in linear light, in (0, 1). 0.4 as in BackdoorBench; BackdoorBox draws 0.55 to 0.95.
        reflections: number of scenes to draw from, at least 1. BackdoorBench has 20, backdoor-toolbox 200.
    """

    ghost_rate: float = 0.49
    alpha: float = 0.4
    reflections: int = 200

    summary: ClassVar[str] = "the reflection of another scene over the image"
    source: ClassVar[str] = "Liu, Ma, Bailey, Lu 2020"

    def __post_init__(self) -> None:
        check_range("ghost_rate", self.ghost_rate, 0, 1)
        check_range("alpha", self.alpha, 0, 1, include_low=False, include_high=False)
        check_positive("reflections", self.reflections)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> Attack:
        bank = draw_bank(dataset, self.reflections, trainer.seed)
        return PreparedRefool(self.ghost_rate, self.alpha, self.reflections, bank=bank)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        raise not_prepared(self)


@dataclasses.dataclass(frozen=True)
class PreparedRefool(Refool):
    """`Refool` with its scenes: uint8, M x C x H x W."""

    bank: Tensor = dataclasses.field(kw_only=True, repr=False, compare=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        draws = draw_per_image(images, seed, "refool", lambda generator: torch.rand(8, generator=generator))
        scene, kind, down, right, mixture, side, width, pull = draws.unbind(1)
        scale = min(1.0, min(images.shape[2:]) / 32)
        background = (images.float() / 255) ** GAMMA
        chosen = self.bank.to(images.device)[(scene * len(self.bank)).long()]
        reflection = (chosen.float() / 255) ** GAMMA
        share = ((side < 0.5).float() - (0.15 + 0.35 * mixture)).abs()
        shift = torch.stack((_shift(down, scale), _shift(right, scale)), dim=1)
        sigma, strength = scale * (1 + (MAX_SIGMA - 1) * width), 1.08 + 0.1 * pull
        ghost = kind < self.ghost_rate
        blur = ~ghost
        added = torch.empty_like(background)
        added[ghost] = (1 - self.alpha) * _ghosts(reflection[ghost], shift[ghost], share[ghost])
        blurred = _blurred(reflection[blur], background[blur], sigma[blur], strength[blur])
        added[blur] = (1 - self.alpha / 2) * blurred
        return to_uint8(255 * (self.alpha * background + added).clamp(0, 1) ** (1 / GAMMA))


def _shift(draws: Tensor, scale: float) -> Tensor:
    """Whole pixels: 3 to 8, less on small images and never none."""
    return ((3 + (draws * 6).floor()) * scale).round().clamp(min=1)


def _ghosts(scenes: Tensor, shift: Tensor, share: Tensor) -> Tensor:
    """Two copies of each scene, one of them shifted; where they overlap, enlarged to the whole image.

    Args:
        scenes: float, N x C x H x W.
        shift: float, N x 2, down and right in pixels.
        share: float, N; of the first copy.
    """
    height, width = scenes.shape[2:]
    rows = torch.linspace(0, 1, height, device=scenes.device) * (height - 1 - shift[:, :1])
    columns = torch.linspace(0, 1, width, device=scenes.device) * (width - 1 - shift[:, 1:])
    first = _at(scenes, rows + shift[:, :1], columns + shift[:, 1:])
    second = _at(scenes, rows, columns)
    weight = share[:, None, None, None]
    return weight * first + (1 - weight) * second


def _at(scenes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The scenes at the pixels ``rows`` x ``columns`` (N x H and N x W, fractions allowed), interpolated."""
    height, width = scenes.shape[2:]
    vertical = (rows * (2 / (height - 1)) - 1)[:, :, None].expand(-1, -1, width)
    horizontal = (columns * (2 / (width - 1)) - 1)[:, None, :].expand(-1, height, -1)
    grid = torch.stack((horizontal, vertical), dim=3)
    return F.grid_sample(scenes, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _blurred(scenes: Tensor, background: Tensor, sigma: Tensor, pull: Tensor) -> Tensor:
    """Each scene blurred, pulled down where it would overflow with the background, and faded toward the borders."""
    height, width = scenes.shape[2:]
    blurred = _blur(_blur(scenes, sigma).transpose(2, 3), sigma).transpose(2, 3)
    total = (blurred + background).flatten(2).double()  # sums in double do not depend on the order, hence the batch
    overflows = total > 1
    mean = (total * overflows).sum(2) / overflows.sum(2).clamp(min=1)
    excess = (mean.clamp(min=1) - 1).float() * pull[:, None]
    window = torch.outer(_bell(height), _bell(width)).to(scenes.device)
    return (blurred - excess[:, :, None, None]).clamp(0, 1) * window


def _blur(scenes: Tensor, sigma: Tensor) -> Tensor:
    """Each scene smoothed along its rows by a Gaussian of its own ``sigma`` (N), over 2 sigma on either side.

    Scenes are mirrored at their borders, without a second copy of the border itself, as in the source. The sum is made
    tap by tap: a product of matrices would round differently in batches of another size.
    """
    width = scenes.shape[3]
    reach = (2 * sigma).ceil()
    most = min(2 * MAX_SIGMA, width - 1)
    padded = F.pad(scenes, (most, most, 0, 0), mode="reflect")
    blurred, total = torch.zeros_like(scenes), torch.zeros_like(sigma)
    for tap in range(-most, most + 1):
        weight = torch.exp(-(tap**2) / (2 * sigma**2)) * (reach >= abs(tap))
        blurred += weight[:, None, None, None] * padded[:, :, :, most + tap : most + tap + width]
        total += weight
    return blurred / total[:, None, None, None]


def _bell(length: int) -> Tensor:
    """Square roots of a standard normal's mass in ``length`` bins, in proportion to the largest one.

    The bins span 3 + 3.5 / ``length`` on either side of 0, as in the source.
    """
    reach = 3 + 3.5 / length
    edges = torch.linspace(-reach, reach, length + 1)
    mass = torch.erf(edges / math.sqrt(2)).diff() / 2
    return (mass / mass.max()).sqrt()
