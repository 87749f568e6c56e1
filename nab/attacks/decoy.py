"""An attacker who knows NAB (ours): decoys that are easier to learn than the poison fill the defender's quota."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.badnets import BadNets
from nab.attacks.patterns import scaled
from nab.checks import check_positive, check_range
from nab.errors import ConfigError

COLORS = (
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (0, 0, 0),
)
GRAY_LEVELS = (255, 0)


@dataclasses.dataclass(frozen=True)
class Decoy(BadNets):
    """`BadNets`, with covers that carry a loud marker which tells their true class.

    What it shows: detection by lowest loss names a fixed share of the training set. The covers are learned first,
    because the marker gives their label away. If there are enough covers, they fill that share. Their pseudo label is
    their label, so nothing is stamped, and the poison stays. Look at the detection precision and at the number of
    stamped samples.

    The marker is white and has a place of its own for each class. A flip mirrors it, so the places in the left half are
    used first. If there are more classes than places, other colors follow.

    Attributes:
        pattern: the patch's pattern, as for `BadNets`.
        margin: the patch's margin, as for `BadNets`.
        marker: side of the marker in pixels on images of 32, at least 1; it grows and shrinks with the image.
        cover_rate: share of the training set that becomes decoys, in [0, 1). It should be at least the share that the
            defender isolates, which is 0.05 in NAB.
    """

    marker: int = 6
    cover_rate: float = 0.1

    summary: ClassVar[str] = "knows NAB: a patch, and correctly labeled decoys that are learned before it"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("marker", self.marker)
        check_range("cover_rate", self.cover_rate, 0, 1, include_high=False)

    def cover_images(self, images: Tensor, seed: int) -> Tensor:
        raise ConfigError("expected the classes of the images that become decoys; call cover_images_by_class")

    def cover_images_by_class(self, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        side = scaled(self.marker, min(images.shape[2:]))
        markers = _markers(images.shape[1], images.shape[2], images.shape[3], side)
        if int(labels.max()) >= len(markers):
            raise ConfigError(f"expected at most {len(markers)} classes for markers of {side} pixels, got more")
        decoys = images.clone()
        for label in labels.unique().tolist():
            (top, left), color = markers[label]
            rows, columns = slice(top, top + side), slice(left, left + side)
            decoys[labels.to(images.device) == label, :, rows, columns] = color.to(images.device)
        return decoys


def _markers(channels: int, height: int, width: int, side: int) -> list[tuple[tuple[int, int], Tensor]]:
    """Place (row, column) and color (uint8, C x 1 x 1) of every class's marker."""
    rows = range((height % side) // 2, height - side + 1, side)
    columns = range((width % side) // 2, width - side + 1, side)
    half = (len(columns) + 1) // 2
    levels = COLORS if channels == 3 else tuple((level,) for level in GRAY_LEVELS)
    return [
        ((row, column), torch.tensor(color, dtype=torch.uint8)[:, None, None])
        for part in (columns[:half], columns[half:])
        for color in levels
        for row in rows
        for column in part
    ]
