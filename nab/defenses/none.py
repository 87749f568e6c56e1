"""No defence: plain training, the baseline of every table."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import Defended, Defense
from nab.training import Context, Monitor


@dataclasses.dataclass(frozen=True)
class NoDefense(Defense):
    """Trains on the set as it is."""

    summary: ClassVar[str] = "plain training on the untrusted set"
    source: ClassVar[str] = "baseline"

    def defend(self, dataset: Dataset, context: Context, monitor: Monitor | None = None) -> Defended:
        with context.stage("training"):
            trained = context.train(dataset, "training", monitor=monitor)
        return Defended(trained.predictor, trained.curve, trained.images_per_second)
