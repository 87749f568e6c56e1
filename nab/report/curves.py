"""Curves over epochs, from stored results."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nab.experiments import RunResult
from nab.report.style import CLEAN, METRIC_COLORS, NEUTRAL, POISONED
from nab.report.tables import title


def loss_gap_figure(runs: Sequence[RunResult]) -> Figure:
    """F3: mean loss of poisoned and clean samples while LGA trains, one panel per attack, a line per seed; below it,
    how many suspects would have been poisoned if it had stopped there."""
    shown = [run for run in runs if run.detection_curve]
    attacks = sorted({run.method("attack") for run in shown})
    figure, grid = plt.subplots(
        2, len(attacks), figsize=(4.2 * len(attacks), 5.2), sharex=True, sharey="row", squeeze=False
    )
    for column, attack in zip(grid.T, attacks, strict=True):
        for run in (run for run in shown if run.method("attack") == attack):
            curve = pd.DataFrame(run.detection_curve)
            column[0].plot(curve["epoch"], curve["loss_clean"], color=CLEAN, alpha=0.7)
            column[0].plot(curve["epoch"], curve["loss_poisoned"], color=POISONED, alpha=0.7)
            column[1].plot(curve["epoch"], curve["detection_precision"], color=NEUTRAL, marker="o", markersize=3)
        column[0].set_title(attack)
        column[1].set(xlabel="epoch of LGA", ylim=(-3, 103))
        column[1].xaxis.get_major_locator().set_params(integer=True)
    grid[0, 0].set_ylabel("mean loss (nats)")
    grid[1, 0].set_ylabel("suspects poisoned (%)")
    handles = [Line2D([], [], color=CLEAN, label="clean"), Line2D([], [], color=POISONED, label="poisoned")]
    grid[0, -1].legend(handles=handles)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def dynamics_figure(runs: Sequence[RunResult]) -> Figure:
    """F4: accuracy and attack success over the epochs, one panel per defense, for one attack and seed.

    Dotted lines are other ways to use the same network, such as NAB's without its stamp.
    """
    figure, grid = plt.subplots(1, len(runs), figsize=(4.6 * len(runs), 3.4), sharey=True, squeeze=False)
    for ax, run in zip(grid[0], runs, strict=True):
        curve = pd.DataFrame(run.curve)
        for name in curve:
            base = next((base for base in list(METRIC_COLORS)[:2] if str(name).startswith(f"{base}_")), str(name))
            if base in METRIC_COLORS:
                style = "-" if base == name else ":"
                ax.plot(curve["epoch"], curve[name], style, color=METRIC_COLORS[base], label=title(str(name)))
        ax.set(title=f"defense: {run.method('defense')}", xlabel="epoch", ylim=(-3, 103))
    grid[0, 0].set_ylabel("percent")
    grid[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def sweep_figure(points: pd.DataFrame) -> Figure:
    """When LGA finds the poison: detection precision after every epoch, per setting and attack, a line per seed.

    Args:
        points: what `nab.report.sweep.sweep_points` returned.
    """
    grid = sns.relplot(
        points,
        x="epoch",
        y="detection_precision",
        col="setting",
        hue="attack",
        units="seed",
        estimator=None,
        kind="line",
        marker="o",
        markersize=4,
        height=2.5,
        aspect=1.15,
        col_wrap=min(3, points["setting"].nunique()),
        palette={"badnets": POISONED, "blend": CLEAN},
    )
    grid.set(ylim=(-3, 103)).set_titles("{col_name}").set_axis_labels("epoch of LGA", "suspects poisoned (%)")
    grid.figure.set_facecolor("white")
    figure: Figure = grid.figure
    return figure
