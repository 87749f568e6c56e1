"""`Context`: what a method is handed besides the data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nab.data import Dataset, GroundTruth
from nab.errors import ConfigError
from nab.seeding import derive
from nab.training.recipe import Recipe
from nab.training.trainer import Hook, Monitor, Trained, train


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """How to train, where, with which seed, and what extra data there is.

    Attributes:
        recipe: of the final network; methods derive their own from it.
        model: a key of `nab.models.MODELS`.
        width: channels of the network's first stage.
        seed: every random choice of a method comes from it.
        device: where networks are trained.
        verified: a small clean, correctly labelled set, for methods that need one.
        truth: only for oracles, which exist for ablations; None for every real method.
        seconds: wall time per stage, filled in as they run.
        notes: what a method found on its way, for reports; no method reads it.
    """

    recipe: Recipe = Recipe()
    model: str = "resnet18"
    width: int = 64
    seed: int = 0
    device: torch.device = torch.device("cpu")
    verified: Dataset | None = None
    truth: GroundTruth | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def train(
        self,
        dataset: Dataset,
        purpose: str,
        *,
        recipe: Recipe | None = None,
        hook: Hook | None = None,
        monitor: Monitor | None = None,
    ) -> Trained:
        """A fresh network on ``dataset``; ``purpose`` names it in progress bars and gives it seeds of its own."""
        return train(
            dataset,
            recipe or self.recipe,
            model=self.model,
            width=self.width,
            seed=derive(self.seed, purpose),
            device=self.device,
            hook=hook,
            monitor=monitor,
            title=purpose,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to ``seconds[name]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def require_verified(self, who: str, like: Dataset) -> Dataset:
        """The verified set of images like those of ``like``.

        Raises:
            ConfigError: there is none, or its classes or image sizes are other ones.
        """
        if self.verified is None:
            raise ConfigError(
                f"{who} needs verified data: pass a small Dataset whose labels you have checked as verified"
            )
        ours, theirs = ((d.classes, tuple(d.images.shape[1:])) for d in (self.verified, like))
        if ours != theirs:
            raise ConfigError(
                "expected verified data with the classes and image size of the training set, "
                f"{theirs[0]} and {theirs[1]}, got {ours[0]} and {ours[1]}"
            )
        return self.verified

    def require_truth(self, who: str) -> GroundTruth:
        """The ground truth.

        Raises:
            ConfigError: it was not handed over.
        """
        if self.truth is None:
            raise ConfigError(f"{who} needs the ground truth and exists for ablations only: pass it as truth")
        return self.truth
