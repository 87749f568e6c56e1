"""What all defenses share: one call, from an untrusted training set to something that answers images."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from nab.data import Dataset
from nab.defenses.deployed import Deployed, Plain
from nab.needs import Given, Suspicion
from nab.training import Trained, Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class Defended:
    """What a defense hands back.

    Attributes:
        deployed: what to use.
        stages: the trainings that the defense went through, by name, in their order.
        suspicion: what was suspected of the training set, by a defense that found or used suspects.
        is_stamped: bool, N; the samples that were trained with a stamp, by a defense that has one.
        notes: further findings by name, tensors or values as JSON has them, for reports.
    """

    deployed: Deployed
    stages: Mapping[str, Trained] = dataclasses.field(default_factory=dict)
    suspicion: Suspicion | None = None
    is_stamped: Tensor | None = None
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Defense(abc.ABC):
    """Turns a training set that cannot be trusted into something that can be used.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `defend`.
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Some of `nab.needs.NEEDS`, but never the truth."""

    is_baseline: ClassVar[bool] = False
    """Whether the network that it hands back is the undefended one."""

    def check(  # noqa: B027 - most suit everything
        self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None
    ) -> None:
        """Whether the defense suits the data and the network, before anything is trained.

        Args:
            dataset: the training set as it came.
            trainer: how networks will be trained; its architecture may not suit the defense.
            verified: the verified images, of a defense that needs them.

        Raises:
            NabError: it does not.
        """

    @abc.abstractmethod
    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        """Train on ``dataset`` with as little harm as can be.

        Args:
            dataset: the training set as it came.
            trainer: how and where to train, and the seed.
            given: what the defense declared that it needs.
        """


TRAINING = "training"
"""The stage in which a network is trained on the set as it is: the attacked model, which many methods share."""


def attacked_model(dataset: Dataset, trainer: Trainer) -> Trained:
    """The network that trains on the set as it is."""
    return trainer.train(dataset, TRAINING, watch=Plain)
