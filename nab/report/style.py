"""One look for every figure."""

from __future__ import annotations

import matplotlib as mpl
import seaborn as sns
from cycler import cycler

INK = "#24292f"
CLEAN, POISONED, STAMPED, NEUTRAL = "#2f6db5", "#c8402f", "#2e8b57", "#8a8f98"
"""What belongs to clean data, to the attacker, to the defender, and to nobody; distinct for color-blind readers
too."""

METRIC_COLORS = {"clean_accuracy": CLEAN, "attack_success_rate": POISONED, "robust_accuracy": STAMPED}
"""Metrics that are drawn together."""


def use_style() -> None:
    """Set matplotlib up. The ground is opaque white: on a dark page a figure is a card, and its text stays readable."""
    sns.set_theme(context="notebook", style="ticks")
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "savefig.dpi": 150,
            "savefig.bbox": "tight",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=[CLEAN, POISONED, STAMPED, NEUTRAL]),
            "legend.frameon": False,
            "svg.hashsalt": "nab",  # the same figure, the same bytes
        }
    )
