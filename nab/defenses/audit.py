"""No defence, but a look: plain training beside what a detector and a labeler say. For tables of their quality."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nab.data import Dataset
from nab.defenses.base import Defended, Defense
from nab.defenses.nab import NAB
from nab.detection import LGA, Detector, Rate
from nab.pseudolabels import VD, Labeler
from nab.stamp import Stamp
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class Audit(Defense):
    """Finds suspects and guesses their labels as `NAB` does, and trains on the set as it is.

    Detectors that need the attacked model share it with this training, so that one more detector costs no training of
    the final network.

    Attributes:
        detector: names the suspects.
        labeler: guesses their true labels.
        detection_rate: as for `NAB`.
        stamp: for labellers that see images through it; nothing is trained with it.
        detection_threshold: as for `NAB`.
    """

    detector: Detector = LGA()
    labeler: Labeler = VD()
    detection_rate: Rate | None = 0.05
    stamp: Stamp = Stamp()
    detection_threshold: float | None = None

    summary: ClassVar[str] = "plain training, and a look for suspects that changes nothing"
    source: ClassVar[str] = "baseline"
    takes_suspects: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._looker  # noqa: B018  its checks

    @property
    def _looker(self) -> NAB:
        return NAB(self.detector, self.labeler, self.detection_rate, self.stamp, self.detection_threshold)

    def defend(self, dataset: Dataset, context: Context) -> Defended:
        found = self._looker.fit(dataset, context=context).suspicion_
        with context.stage("training"):
            trained = context.train_plainly(dataset)
        return Defended(trained.predictor, trained.curve, trained.images_per_second, found)
