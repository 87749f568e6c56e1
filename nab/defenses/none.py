"""No defence: plain training, the baseline of every table."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import Defended, Defense
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class NoDefense(Defense):
    """Trains on the set as it is."""

    summary: ClassVar[str] = "plain training on the untrusted set"
    source: ClassVar[str] = "baseline"
    is_baseline: ClassVar[bool] = True

    def defend(self, dataset: Dataset, context: Context) -> Defended:
        with context.stage("training"):
            trained = context.train_plainly(dataset)
        return Defended(trained.predictor, trained.curve, trained.images_per_second)
