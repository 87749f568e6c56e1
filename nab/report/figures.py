"""Every figure of the book, by one import."""

from nab.report.attacks import rate_figure
from nab.report.curves import dynamics_figure, loss_gap_figure, sweep_figure
from nab.report.detection import dial_figure
from nab.report.images import attack_gallery, magnified, predictions, side_by_side, stamped_pixels
from nab.report.style import use_style

__all__ = [
    "attack_gallery",
    "dial_figure",
    "dynamics_figure",
    "loss_gap_figure",
    "magnified",
    "predictions",
    "rate_figure",
    "side_by_side",
    "stamped_pixels",
    "sweep_figure",
    "use_style",
]
