"""Rows and columns of images, with what networks say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nab.data import Normalization
from nab.defenses import REFUSED
from nab.experiments import Attacked, RunResult
from nab.report.style import CLEAN, INK, NEUTRAL, POISONED
from nab.report.tables import ENDINGS
from nab.stamp import Stamp

View = Callable[[Tensor], Tensor]
"""From images (uint8, N x C x H x W) to what a network is shown of them, in pixels again."""


def stamped_pixels(images: Tensor, stamp: Stamp, normalization: Normalization) -> Tensor:
    """The images (uint8, N x C x H x W) as NAB's network sees them, back in pixels."""
    return normalization.undo(stamp.on(normalization)(normalization.apply(images)))


def draw(axes: Axes, image: Tensor) -> None:
    """One image, C x H x W, uint8 or float in [0, 1], without ticks, every pixel a square."""
    picture = image.permute(1, 2, 0).numpy()
    axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def attack_gallery(attacked: Mapping[str, Attacked], index: int, seen: Mapping[str, View] | None = None) -> Figure:
    """F2: one row per attack: the test image ``index`` clean, triggered, their difference, and as a defense sees it;
    then a poisoned training image and, where an attack has covers, a cover.

    The difference is magnified so that its largest value is white; the factor stands above it. Above a training image
    stand its true class and the label that it was given.

    Args:
        attacked: the data of every attack, by its name.
        index: of the test image.
        seen: what defenses see of the triggered image: a column's title, and how to make its pictures.
    """
    seen = seen or {}
    has_covers = any(_is_cover(data).any() for data in attacked.values())
    columns = ["clean", "triggered", "difference", *seen, "as poison", *(["as cover"] if has_covers else [])]
    figure, grid = plt.subplots(
        len(attacked),
        len(columns),
        figsize=(1.3 * len(columns) + 1.2, 1.5 * len(attacked) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, data) in zip(grid, attacked.items(), strict=True):
        views = [*_test_views(data, index, seen), *_training_views(data)]
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


def _test_views(data: Attacked, index: int, seen: Mapping[str, View]) -> list[tuple[str, Tensor]]:
    """Titles and images: clean, triggered, difference, and as every defense sees it."""
    clean, triggered = data.test.images[index], data.triggered.images[index]
    change, factor = magnified(clean, triggered)
    return [
        (data.test.classes[int(data.test.labels[index])], clean),
        ("", triggered),
        (f"x {factor:.1f}", change),
        *(("", view(triggered[None])[0]) for view in seen.values()),
    ]


def _training_views(data: Attacked) -> list[tuple[str, Tensor]]:
    """Titles and images: a poisoned one, whose label changed if that happens at all, and a cover if there is any."""
    given, truth = data.poisoned.dataset, data.poisoned.truth
    is_relabeled = truth.is_poisoned & (given.labels != truth.true_labels)
    chosen = [is_relabeled if is_relabeled.any() else truth.is_poisoned, _is_cover(data)]
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
    data: Attacked, undefended: RunResult, defended: RunResult, *, seen: View | None = None, count: int = 5
) -> Figure:
    """F1: test images clean and triggered, with what each network answered in its stored run; the defended one also in
    every other way to use it.

    Args:
        data: of both runs.
        undefended: a run without a defense.
        defended: a run of the same attack with one.
        seen: what the defended network is shown of an image; the image itself by default.
        count: how many images.
    """
    plain, examples = undefended.examples[:count], defended.examples[:count]
    index = torch.tensor([example["index"] for example in plain])
    clean, triggered = data.test.images[index], data.triggered.images[index]
    shown = seen(triggered) if seen else triggered
    name = defended.method("defense")
    rows = [
        ("clean image,\nno defense", clean, plain, "clean"),
        ("trigger,\nno defense", triggered, plain, "triggered"),
        *((f"trigger, {name},\n{ENDINGS.get(w, w)}", triggered, examples, f"triggered_{w}") for w in _ways(defended)),
        (f"trigger,\n{name}", shown, examples, "triggered"),
    ]
    size = (1.5 * len(plain) + 1.2, 1.65 * len(rows))
    figure, grid = plt.subplots(len(rows), len(plain), figsize=size, squeeze=False)
    target = int(undefended.settings["target"])
    for axes, (title, images, said, view) in zip(grid, rows, strict=True):
        axes[0].set_ylabel(title, fontsize=10, color=INK, rotation=0, ha="right", va="center", labelpad=12)
        for ax, image, example in zip(axes, images, said, strict=True):
            draw(ax, image)
            _tell(ax, example[view], example["true_label"], target, data.test.classes)
    figure.tight_layout(h_pad=0.3, w_pad=0.5)
    return figure


def _ways(run: RunResult) -> list[str]:
    """The other ways to use the run's network."""
    return [name.removeprefix("triggered_") for name in run.examples[0] if name.startswith("triggered_")]


def _tell(axes: Axes, answer: int, right: int, target: int, classes: tuple[str, ...]) -> None:
    """The answer above an image: blue if it is right, red if it is the attacker's, gray with the truth otherwise."""
    color = CLEAN if answer == right else POISONED if answer == target else NEUTRAL
    name = "refused" if answer == REFUSED else classes[answer]
    name += f" ({classes[right]})" if color == NEUTRAL else ""
    axes.set_title(name, color=color, fontsize=9, fontweight="bold", pad=3)


def side_by_side(images: dict[str, Tensor]) -> Figure:
    """A few images (C x H x W), large, each with its title."""
    figure, grid = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.7), squeeze=False)
    for ax, (title, image) in zip(grid[0], images.items(), strict=True):
        draw(ax, image)
        ax.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure
