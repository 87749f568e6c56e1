"""Rows and columns of images, with what networks say of them."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nab.attacks import Attack
from nab.data import Dataset
from nab.experiments import Attacked, RunResult
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


def attack_gallery(attacked: Mapping[str, Attacked], *, stamp: Stamp, recipe: Recipe, index: int) -> Figure:
    """F2: one row per attack: the test image ``index`` clean, triggered, their difference, triggered and stamped, then
    a poisoned training image and, where an attack has covers, a cover.

    The difference is magnified so that its largest value is white; the factor stands above it. Above a training image
    stand its true class and the label that it was given.
    """
    has_covers = any(_is_cover(data).any() for data in attacked.values())
    columns = ("clean", "triggered", "difference", "and stamped", "as poison", "as cover")[: 6 if has_covers else 5]
    figure, grid = plt.subplots(
        len(attacked),
        len(columns),
        figsize=(1.3 * len(columns) + 1.2, 1.5 * len(attacked) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, data) in zip(grid, attacked.items(), strict=True):
        views = [*_test_views(data, index, stamp, recipe), *_training_views(data)]
        for ax, (title, image) in zip(axes, views, strict=False):
            draw(ax, image)
            ax.set_title(title, fontsize=8, pad=2)
        for ax in axes[len(views) :]:
            ax.set_box_aspect(1)
            ax.set_axis_off()
        axes[0].set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center", labelpad=6)
    for ax, column in zip(grid[0], columns, strict=True):
        ax.annotate(column, (0.5, 1.2), xycoords="axes fraction", ha="center", fontsize=10, fontweight="bold")
    return figure


def _is_cover(data: Attacked) -> Tensor:
    truth = data.poisoned.truth
    return truth.is_touched & ~truth.is_poisoned


def _test_views(data: Attacked, index: int, stamp: Stamp, recipe: Recipe) -> list[tuple[str, Tensor]]:
    """Titles and images: clean, triggered, difference, triggered and stamped."""
    clean, triggered = data.test.images[index], data.triggered.images[index]
    change, factor = magnified(clean, triggered)
    return [
        (data.test.classes[int(data.test.labels[index])], clean),
        ("", triggered),
        (f"x {factor:.1f}", change),
        ("", stamped_pixels(triggered[None], stamp, recipe)[0]),
    ]


def _training_views(data: Attacked) -> list[tuple[str, Tensor]]:
    """Titles and images: a poisoned one, whose label changed if that happens at all, and a cover if there is any."""
    given, truth = data.poisoned.dataset, data.poisoned.truth
    is_relabelled = truth.is_poisoned & (given.labels != truth.true_labels)
    chosen = [is_relabelled if is_relabelled.any() else truth.is_poisoned, _is_cover(data)]
    views = []
    for position in (int(where.nonzero()[0]) for where in chosen if where.any()):
        name, label = (given.classes[int(labels[position])] for labels in (truth.true_labels, given.labels))
        views.append((f"{name}, kept" if name == label else f"{name} \u2192 {label}", given.images[position]))
    return views


def magnified(clean: Tensor, changed: Tensor) -> tuple[Tensor, float]:
    """The absolute difference of two images (uint8, C x H x W), float in [0, 1], its largest value 1; and the factor by
    which it was magnified."""
    difference = (changed.float() - clean.float()).abs()
    factor = 255 / max(float(difference.max()), 1.0)
    return (difference * factor / 255).clamp(max=1), factor


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
