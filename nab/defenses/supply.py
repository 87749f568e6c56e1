"""What methods may need of one training set, made when the first method asks for it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

from nab.checks import check_kind
from nab.data import Dataset, GroundTruth
from nab.defenses.base import attacked_model
from nab.errors import ConfigError
from nab.needs import Given, Suspicion, check_needs, check_verified
from nab.selfsupervised import SelfSupervised, SimCLR, train_encoder
from nab.training import Predictor, Trained, Trainer


class HasNeeds(Protocol):
    """Whatever declares needs."""

    @property
    def needs(self) -> frozenset[str]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Supply:
    """Everything that methods may need of one training set; each part is made when the first method asks for it.

    Attributes:
        dataset: the training set as the defender sees it.
        trainer: how and where to train.
        verified: a small set of clean, correctly labeled images.
        encoder: trains the features; SimCLR by default.
        truth: for oracles, which exist for ablations.
    """

    dataset: Dataset
    trainer: Trainer
    verified: Dataset | None = None
    encoder: SelfSupervised = SimCLR()
    truth: GroundTruth | None = None

    def __post_init__(self) -> None:
        check_kind("dataset", self.dataset, Dataset, "nab.from_folder(...)")
        check_kind("trainer", self.trainer, Trainer, "nab.Trainer()")
        check_kind("encoder", self.encoder, SelfSupervised, "nab.selfsupervised.SimCLR()")
        if self.verified is not None:
            check_kind("verified", self.verified, Dataset, "nab.from_folder(...)")

    @functools.cached_property
    def _attacked(self) -> Trained:
        return attacked_model(self.dataset, self.trainer)

    @functools.cached_property
    def _features(self) -> Predictor:
        return train_encoder(self.dataset, self.trainer, self.encoder)

    def check(self, method: HasNeeds) -> None:
        """Whether the method can be given what it needs, before anything is trained.

        Raises:
            ConfigError: it cannot.
        """
        who, needs = type(method).__name__, check_needs(method.needs)
        if "verified" in needs:
            check_verified(who, self.verified, self.dataset)
        if "truth" in needs and self.truth is None:
            raise ConfigError(f"{who} needs the ground truth and exists for ablations only: pass it as truth")

    def give(self, method: HasNeeds, suspicion: Suspicion | None = None) -> Given:
        """Exactly what the method declared that it needs.

        Raises:
            ConfigError: something is missing.
        """
        self.check(method)
        needs = method.needs
        if "suspects" in needs and suspicion is None:
            raise ConfigError(f"{type(method).__name__} needs suspects: name a detector, or pass a Suspicion")
        everything = Given(
            suspicion,
            None if self.verified is None else self.verified.replace(normalization=self.dataset.normalization),
            self._features if "features" in needs else None,
            self._attacked if "attacked model" in needs else None,
            self.truth,
        )
        return everything.only(needs).copy()
