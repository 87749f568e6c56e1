"""What all labellers share."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.stamp import Stamp
from nab.training import Context


@dataclasses.dataclass(frozen=True)
class Labeler(abc.ABC):
    """Guesses true labels.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `label` alone.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    is_oracle: ClassVar[bool] = False
    """Whether it reads the ground truth, which only ablations may."""

    needs_verified: ClassVar[bool] = False
    """Whether it needs a small set of clean, correctly labelled images."""

    @abc.abstractmethod
    def label(self, dataset: Dataset, context: Context, *, is_suspect: Tensor, stamp: Stamp) -> Tensor:
        """A label for every sample, of which only the suspects' are used.

        Args:
            dataset: the training set as the defender sees it.
            context: how to train; verified data.
            is_suspect: bool, N; what a detector picked.
            stamp: the defender's stamp, for labellers that see images through it.

        Returns:
            int64, N, on the CPU.
        """
