"""What methods need besides the training set and a trainer, and what they are handed: exactly that."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor

from nab.data import Dataset, GroundTruth
from nab.errors import ConfigError, NabError
from nab.training import Predictor, Trained

NEEDS = {
    "suspects": "suspected samples",
    "pseudo labels": "pseudo labels",
    "verified": "verified images",
    "features": "self-supervised features",
    "attacked model": "the attacked model",
    "truth": "the truth",
}
"""Every need, and what it is called in tables."""


@dataclasses.dataclass(frozen=True, eq=False)
class Suspicion:
    """What is suspected of a training set; every tensor has one entry per sample.

    Attributes:
        scores: float32, N; higher = more suspicious, minus infinity = never a suspect.
        is_suspect: bool, N.
        pseudo_labels: int64, N; only those of suspects are used. None if nobody guessed any.
    """

    scores: Tensor
    is_suspect: Tensor
    pseudo_labels: Tensor | None = None

    def copy(self) -> Suspicion:
        """The same in tensors of its own."""
        labels = None if self.pseudo_labels is None else self.pseudo_labels.clone()
        return Suspicion(self.scores.clone(), self.is_suspect.clone(), labels)

    def relabeled(self, dataset: Dataset) -> Dataset:
        """The training set with the suspects' labels replaced by their pseudo labels.

        Raises:
            ConfigError: nobody guessed any.
        """
        if self.pseudo_labels is None:
            raise ConfigError("expected suspects with pseudo labels, got suspects alone: name a labeler")
        return dataset.replace(labels=self.pseudo_labels.where(self.is_suspect, dataset.labels))


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a method is handed besides the training set and the trainer. What it did not declare is None.

    Attributes:
        suspicion: for ``"suspects"``; it has pseudo labels for ``"pseudo labels"``.
        verified: for ``"verified"``; a small set of clean, correctly labeled images.
        encoder: for ``"features"``; a network that was trained without labels, see `nab.selfsupervised`.
        attacked: for ``"attacked model"``; a copy of the network that was trained on the set as it is.
        truth: for ``"truth"``, which only ablations may need.
    """

    suspicion: Suspicion | None = None
    verified: Dataset | None = None
    encoder: Predictor | None = None
    attacked: Trained | None = None
    truth: GroundTruth | None = None

    def copy(self) -> Given:
        """The same in tensors and networks of its own, so that whoever gets it changes nothing for others."""
        attacked, truth = self.attacked, self.truth
        if attacked is not None:
            curve = [dict(row) for row in attacked.curve]
            attacked = dataclasses.replace(attacked, predictor=attacked.predictor.copy(), curve=curve)
        if truth is not None:
            truth = dataclasses.replace(
                truth, **{name: value.clone() for name, value in vars(truth).items() if isinstance(value, Tensor)}
            )
        return Given(
            self.suspicion and self.suspicion.copy(),
            self.verified
            and self.verified.replace(images=self.verified.images.clone(), labels=self.verified.labels.clone()),
            self.encoder and self.encoder.copy(),
            attacked,
            truth,
        )

    def only(self, needs: Iterable[str]) -> Given:
        """The part that belongs to these needs; a suspicion without pseudo labels, if these are not needed."""
        needs = frozenset(needs)
        wanted = {_FIELDS[need] for need in needs}
        kept = {name: value for name, value in vars(self).items() if name in wanted}
        if kept.get("suspicion") is not None and "pseudo labels" not in needs:
            kept["suspicion"] = dataclasses.replace(kept["suspicion"], pseudo_labels=None)
        return Given(**kept)

    def require_suspicion(self) -> Suspicion:
        """The suspicion.

        Raises:
            ConfigError: it was not handed over; so do the others below.
        """
        return _present(self.suspicion, "suspects")

    def require_verified(self) -> Dataset:
        """The verified images."""
        return _present(self.verified, "verified")

    def require_encoder(self) -> Predictor:
        """The encoder."""
        return _present(self.encoder, "features")

    def require_attacked(self) -> Trained:
        """The attacked model."""
        return _present(self.attacked, "attacked model")

    def require_truth(self) -> GroundTruth:
        """The truth."""
        return _present(self.truth, "truth")

    @property
    def inputs(self) -> dict[str, Any]:
        """What it holds, for the key of what is made from it; see `nab.digest.describe`. A need that is added later
        changes no key of methods without it."""
        parts = {
            "suspicion": self.suspicion and vars(self.suspicion),
            "verified": self.verified,
            "encoder": self.encoder,
            "attacked": self.attacked and self.attacked.predictor,
        }
        return {name: part for name, part in parts.items() if part is not None}


_FIELDS = {
    "suspects": "suspicion",
    "pseudo labels": "suspicion",
    "verified": "verified",
    "features": "encoder",
    "attacked model": "attacked",
    "truth": "truth",
}
assert _FIELDS.keys() == NEEDS.keys()


@contextlib.contextmanager
def left_alone(who: str, dataset: Dataset) -> Iterator[None]:
    """A block in which nobody may write into the training set, which others use.

    Raises:
        NabError: somebody did.
    """
    before = (dataset.images._version, dataset.labels._version)
    yield
    if before != (dataset.images._version, dataset.labels._version):
        raise NabError(f"{who} wrote into the training set, which others use; let it make a copy")


Part = TypeVar("Part")


def _present(part: Part | None, need: str) -> Part:
    if part is None:
        raise ConfigError(f"expected {NEEDS[need]} among what the method is given, got none; see nab.defenses.supply")
    return part


def check_needs(needs: Iterable[str]) -> frozenset[str]:
    """The needs, if all are known."""
    unknown = set(needs) - NEEDS.keys()
    if unknown:
        raise ConfigError(f"unknown need {sorted(unknown)}: expected some of {', '.join(NEEDS)}")
    return frozenset(needs)


def check_verified(who: str, verified: Dataset | None, like: Dataset) -> Dataset:
    """The verified set, if there is one of images like those of ``like``.

    Raises:
        ConfigError: there is none, or a single image, or its classes or image sizes are other ones.
    """
    if verified is None:
        raise ConfigError(f"{who} needs verified data: pass a small Dataset whose labels you have checked as verified")
    ours, theirs = ((d.classes, tuple(d.images.shape[1:])) for d in (verified, like))
    if ours != theirs:
        raise ConfigError(
            "expected verified data with the classes and image size of the training set, "
            f"{theirs[0]} and {theirs[1]}, got {ours[0]} and {ours[1]}"
        )
    if len(verified) < 2:
        raise ConfigError(f"{who} needs verified data of at least two images, got {len(verified)}")
    return verified
