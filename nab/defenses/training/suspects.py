"""The two simple things to do with suspects: train without them, or with other labels.

Public implementations that remove suspects train again with settings of their own: BackdoorBench at a learning rate of
0.01, the backdoor toolbox for 200 epochs. Here the recipe is that of the final network, as for NAB, so that a table
compares what is done with the suspects and nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import TRAINING, Defended, Defense
from nab.defenses.deployed import Plain
from nab.errors import DataError
from nab.needs import Given
from nab.training import Trainer


@dataclasses.dataclass(frozen=True)
class DropSuspects(Defense):
    """Removes the suspects and trains on the rest.

    The ablation that shows what NAB's stamp and labels add to its detector: same suspects, same training.
    """

    summary: ClassVar[str] = "remove the suspects and train on the rest"
    source: ClassVar[str] = "baseline"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects"})

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.suspicion is not None
        rest = dataset.subset(~given.suspicion.is_suspect) if not given.suspicion.is_suspect.all() else None
        if rest is None or len(rest.labels.unique()) < 2:
            raise DataError("drop-suspects: no two classes are left without the suspects; suspect fewer samples")
        trained = trainer.train(rest, f"{TRAINING} without suspects", watch=Plain)
        return Defended(Plain(trained.predictor), {TRAINING: trained})


@dataclasses.dataclass(frozen=True)
class RelabelSuspects(Defense):
    """Gives the suspects their pseudo labels and trains on all samples, without a stamp.

    The ablation that shows what NAB's stamp adds to its pseudo labels.
    """

    summary: ClassVar[str] = "give the suspects their pseudo labels and train on all, without a stamp"
    source: ClassVar[str] = "baseline"
    needs: ClassVar[frozenset[str]] = frozenset({"suspects", "pseudo labels"})

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.suspicion is not None
        trained = trainer.train(given.suspicion.relabeled(dataset), f"{TRAINING} with pseudo labels", watch=Plain)
        return Defended(Plain(trained.predictor), {TRAINING: trained})
