"""What attacks change, and how well they succeed against a network without a defense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nab.experiments import Attacked, RunResult
from nab.methods import KINDS
from nab.report.tables import frame, summarize

SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
"""The Gaussian of structural similarity in pixels, and the side of the window that it leaves."""


def rate_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """ACC and ASR of undefended networks by data, attack, poison rate and cover rate: mean and deviation, and how many
    seeds. Defended runs are left out."""
    runs = _undefended(runs)
    table = frame(runs)
    if not table.empty:
        covers = [run.params("attack").get("cover_rate") for run in runs]
        table["covers"] = ["" if not rate else f"{100 * rate:g} % of all" for rate in covers]
        order = {name: place for place, name in enumerate(KINDS["attack"].registry)}
        table = table.assign(_place=table["attack"].map(order), images=table["dataset"])
        table = table.sort_values(["images", "_place", "poison_rate", "seed"])
    return summarize(table, ("images", "attack", "poisoned", "covers"), ("clean_accuracy", "attack_success_rate"))


def rate_figure(runs: Iterable[RunResult]) -> Figure | None:
    """ASR of undefended networks against the poison rate, mean and deviation over seeds, for attacks that were measured
    at several rates; None if there are none. Clean-label attacks have a panel of their own, for their rate is a share
    of the target class."""
    table = frame(_undefended(runs))
    swept = table.groupby("attack").filter(lambda group: group["poison_rate"].nunique() > 1) if len(table) else table
    if swept.empty:
        return None
    is_clean = swept["attack"].map({name: attack.clean_label for name, attack in KINDS["attack"].registry.items()})
    parts = {
        "poisoned share of the training set (%)": swept[~is_clean],
        "poisoned share of the target class (%)": swept[is_clean],
    }
    shown = {label: part for label, part in parts.items() if len(part)}
    figure, grid = plt.subplots(1, len(shown), figsize=(4.6 * len(shown) + 0.4, 3.5), sharey=True, squeeze=False)
    for ax, (label, part) in zip(grid[0], shown.items(), strict=True):
        _draw_rates(ax, part)
        ax.set(xlabel=label, ylim=(-3, 103))
    grid[0, 0].set_ylabel("ASR (%)")
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _undefended(runs: Iterable[RunResult]) -> list[RunResult]:
    return [run for run in runs if run.method("defense") == "none"]


def _draw_rates(axes: Axes, table: pd.DataFrame) -> None:
    """A line with error bars per attack; each has a color and a mark of its own."""
    colors = sns.color_palette("colorblind", table["attack"].nunique())
    for (name, group), color, mark in zip(table.groupby("attack"), colors, "osD^vP*X<>" * 3, strict=False):
        cells = group.groupby("poison_rate")["attack_success_rate"].agg(["mean", "std"])
        line = {"color": color, "marker": mark, "markersize": 5, "capsize": 3, "label": name}
        axes.errorbar(100 * cells.index.to_numpy(), cells["mean"], cells["std"].fillna(0.0), **line)
    rates = sorted({100 * rate for rate in table["poison_rate"]})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=9)


def visibility_table(attacked: Mapping[str, Attacked], count: int = 200) -> pd.DataFrame:
    """How much of an attack can be seen on the first ``count`` test images, and on as many poisoned training images.

    PSNR and SSIM are means over images, see `psnr` and `ssim`; "mean" and "largest" change are in gray levels of 255,
    over all pixels and channels. The last column is the PSNR of poisoned training images, which some attacks change in
    another way than test images.
    """
    rows = []
    for name, data in attacked.items():
        clean, triggered = data.test.images[:count], data.triggered.images[:count]
        change = (triggered.float() - clean.float()).abs()
        truth = data.poisoned.truth
        where = truth.is_poisoned.nonzero().squeeze(1)[:count]
        before = data.clean.images[where if truth.origin is None else truth.origin[where]]
        rows.append(
            {
                "attack": name,
                "images": data.test.name,
                "PSNR (dB)": _number(psnr(clean, triggered)),
                "SSIM": _number(ssim(clean, triggered), 3),
                "mean change": _number([change.mean().item()]),
                "largest": f"{change.max().item():.0f}",
                "PSNR in training": _number(psnr(before, data.poisoned.dataset.images[where])),
            }
        )
    return pd.DataFrame(rows)


def _number(values: Sequence[float], digits: int = 1) -> str:
    """The mean of what is a number; empty if nothing is."""
    kept = [value for value in values if math.isfinite(value)]
    return f"{sum(kept) / len(kept):.{digits}f}" if kept else ""


def psnr(clean: Tensor, changed: Tensor) -> list[float]:
    """Peak signal-to-noise ratio of every image (uint8, N x C x H x W) in dB: 10 log10(255^2 / mean squared change);
    infinite for an image that was not changed."""
    error = (changed.double() - clean.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error)).tolist()


def ssim(clean: Tensor, changed: Tensor) -> list[float]:
    """Structural similarity of every image (uint8, N x C x H x W), 1 for equal ones; nan on images below 11 pixels.

    The constants are its authors' (a Gaussian of 1.5 pixels, in a window of 11). The mean is over channels and all
    pixels, for scikit-image's own mean leaves out a border of 5 pixels, where many triggers are.
    """
    from skimage.metrics import structural_similarity  # scikit-image takes a second to import

    if min(clean.shape[2:]) < SSIM_WINDOW:
        return [math.nan] * len(clean)
    settings = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False, "data_range": 255}
    pairs = zip(clean.cpu().numpy(), changed.cpu().numpy(), strict=True)
    return [float(structural_similarity(a, b, channel_axis=0, full=True, **settings)[1].mean()) for a, b in pairs]
