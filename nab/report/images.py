"""Rows and columns of images, with what networks say of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nab.attacks import Attack
from nab.data import Dataset
from nab.experiments import RunResult
from nab.report.style import CLEAN, INK, NEUTRAL, POISONED
from nab.stamp import Stamp
from nab.training import Recipe


def stamped_pixels(images: Tensor, stamp: Stamp, recipe: Recipe) -> Tensor:
    """The images (uint8, N x C x H x W) as the network sees them behind the stamp, back in pixels."""
    return recipe.denormalise(stamp.apply(recipe.normalise(images)))


def draw(axes: Axes, image: Tensor) -> None:
    """One image, C x H x W, uint8 or float in [0, 1], without ticks, every pixel a square."""
    picture = image.permute(1, 2, 0).numpy()
    axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def attack_gallery(
    test: Dataset, attacks: dict[str, Attack], *, stamp: Stamp, recipe: Recipe, seed: int, index: int
) -> Figure:
    """F2: one image under every attack: clean, triggered, difference, triggered and stamped.

    The difference is magnified so that its largest value is white; the factor stands above it.
    """
    columns = ("clean", "triggered", "difference", "triggered, stamped")
    figure, grid = plt.subplots(len(attacks), len(columns), figsize=(8.4, 2.2 * len(attacks)), squeeze=False)
    clean = test.images[index : index + 1]
    for axes, (name, attack) in zip(grid, attacks.items(), strict=True):
        triggered = attack.trigger(clean, seed)
        difference = (triggered.float() - clean.float()).abs()[0]
        factor = 255 / max(float(difference.max()), 1.0)
        views = (clean[0], triggered[0], difference * factor / 255, stamped_pixels(triggered, stamp, recipe)[0])
        titles = (*columns[:2], f"difference x {factor:.1f}", columns[3])
        for ax, view, title in zip(axes, views, titles, strict=True):
            draw(ax, view)
            ax.set_title(title, fontsize=10)
        axes[0].set_ylabel(name, fontsize=12)
    figure.tight_layout()
    return figure


def predictions(
    test: Dataset,
    attack: Attack,
    undefended: RunResult,
    defended: RunResult,
    *,
    stamp: Stamp,
    recipe: Recipe,
    count: int = 5,
) -> Figure:
    """F1: test images clean, triggered, and triggered behind the stamp, with what each network answered in its
    stored run."""
    examples = list(zip(undefended.examples, defended.examples, strict=True))[:count]
    index = torch.tensor([plain["index"] for plain, _ in examples])
    clean = test.images[index]
    triggered = attack.trigger(clean, undefended.config.seed)
    rows = (
        ("clean image,\nno defence", clean, [plain["clean"] for plain, _ in examples]),
        ("trigger,\nno defence", triggered, [plain["triggered"] for plain, _ in examples]),
        ("trigger,\nNAB without stamp", triggered, [nab["triggered_unstamped"] for _, nab in examples]),
        (
            "trigger,\nNAB with stamp",
            stamped_pixels(triggered, stamp, recipe),
            [nab["triggered"] for _, nab in examples],
        ),
    )
    figure, grid = plt.subplots(len(rows), count, figsize=(1.5 * count + 1.2, 1.65 * len(rows)), squeeze=False)
    truth = [plain["true_label"] for plain, _ in examples]
    for axes, (title, images, answers) in zip(grid, rows, strict=True):
        axes[0].set_ylabel(title, fontsize=10, color=INK, rotation=0, ha="right", va="center", labelpad=12)
        for ax, image, answer, right in zip(axes, images, answers, truth, strict=True):
            draw(ax, image)
            colour = CLEAN if answer == right else POISONED if answer == undefended.config.target else NEUTRAL
            name = test.classes[answer] + (f" ({test.classes[right]})" if colour == NEUTRAL else "")
            ax.set_title(name, color=colour, fontsize=9, fontweight="bold", pad=3)
    figure.tight_layout(h_pad=0.3, w_pad=0.5)
    return figure


def side_by_side(images: dict[str, Tensor]) -> Figure:
    """A few images (C x H x W), large, each with its title."""
    figure, grid = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.7), squeeze=False)
    for ax, (title, image) in zip(grid[0], images.items(), strict=True):
        draw(ax, image)
        ax.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure
