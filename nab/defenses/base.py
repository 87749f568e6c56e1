"""What all defences share: one call, from an untrusted training set to a predictor."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.training import Context, Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class Suspicion:
    """What a defence that looks for suspects found; every tensor has one entry per training sample.

    Attributes:
        scores: float32, N; higher = more suspicious.
        is_suspect: bool, N.
        pseudo_labels: int64, N; only the suspects' are used.
        is_stamped: bool, N; samples that are trained with the stamp.
    """

    scores: Tensor
    is_suspect: Tensor
    pseudo_labels: Tensor
    is_stamped: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Defended:
    """What a defence hands back.

    Attributes:
        predictor: what to deploy.
        curve: of the final network's training, a row per epoch.
        images_per_second: of that training; None for a defence that has none.
        suspicion: what was found, by a defence that looked.
    """

    predictor: Predictor
    curve: list[dict[str, float]]
    images_per_second: float | None = None
    suspicion: Suspicion | None = None


@dataclasses.dataclass(frozen=True)
class Defense(abc.ABC):
    """Turns a training set that cannot be trusted into a predictor that can.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `defend`.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    takes_suspects: ClassVar[bool] = False
    """Whether it is built from a detector and a labeler."""

    is_baseline: ClassVar[bool] = False
    """Whether the network it hands back is the undefended one."""

    @abc.abstractmethod
    def defend(self, dataset: Dataset, context: Context) -> Defended:
        """Train on ``dataset`` with as little harm as can be; the context's monitor watches the final network."""
