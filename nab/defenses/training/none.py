"""No defense: plain training, the baseline of every table."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import TRAINING, Defended, Defense, attacked_model
from nab.defenses.deployed import Plain
from nab.needs import Given
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class NoDefense(Defense):
    """Trains on the set as it is."""

    summary: ClassVar[str] = "plain training on the untrusted set"
    source: ClassVar[str] = "baseline"
    is_baseline: ClassVar[bool] = True

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        trained = attacked_model(dataset, trainer)
        return Defended(Plain(trained.predictor), {TRAINING: trained})


@dataclasses.dataclass(frozen=True)
class Audit(Defense):
    """Trains on the set as it is, beside what a detector and a labeler say: for tables of their quality.

    Detectors that need the attacked model share it with this training, so that one more detector costs no training of
    the final network.
    """

    summary: ClassVar[str] = "plain training, and a look for suspects that changes nothing"
    source: ClassVar[str] = "baseline"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects", "pseudo labels"})
    is_baseline: ClassVar[bool] = True

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        return NoDefense().defend(dataset, trainer, given)
