"""PDB, proactive defensive backdoor (Wei, Zha, Wu, "Mitigating Backdoor Attack by Injecting Proactive Defensive
Backdoor", NeurIPS 2024; arXiv:2405.16112).

The defender plants a backdoor that is stronger than the attacker's and can be undone. Verified images with a patch that
no real image can show learn another label, ``h(y) = (y + 1) mod K``, beside plain training on the untrusted set. At
test time every image carries the patch and ``h`` is undone. Nobody looks for poison.

The authors' code differs from this file in three points. It patches verified images before they are cropped and
mirrored, so that the patch moves in training although it stands still at test time; here the patch is written after all
augmentation. It also turns patched images by up to 10 degrees and dims some of them; here they are augmented as all
others. It trains with settings of its own (SGD, learning rate 0.01, weight decay 5e-4, batches of 256, 100 epochs of a
cosine); here the final network's recipe is used, as by every defense that trains once from scratch. The authors'
checkpoints lack patch and inversion, so a tool that loads them measures the bare network: the variant ``unpatched``.

An attack that wins against the patch makes the network say ``t``, which is answered as ``t - 1``: the attack success
rate is then near 0, and so is the robust accuracy. Only the robust accuracy tells whether the attack is switched off.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_positive
from nab.data import Dataset
from nab.defenses.base import TRAINING, Defended, Defense
from nab.defenses.deployed import Deployed, Response
from nab.defenses.stamping import StampedTraining
from nab.needs import Given
from nab.stamp import Stamp
from nab.training import Trainer

PATCH = Stamp(size=7, value=2.0, space="pixel")
"""The source's: 7 x 7 pixels, twice as bright as white."""


def shift_labels(labels: Tensor, num_classes: int) -> Tensor:
    """``h(y) = (y + 1) mod K``: int64, N to N."""
    return (labels + 1) % num_classes


def unshift_logits(logits: Tensor) -> Tensor:
    """Logits of classes from logits of shifted classes: column y of the result is column h(y); float, B x K."""
    return logits.roll(-1, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Patched(Deployed):
    """A network that sees every image with the patch, and whose answers are shifted back.

    The variant ``unpatched`` is the bare network, with its own answers.

    Attributes:
        patch: the one that the network was trained with.
    """

    patch: Stamp = PATCH

    summary: ClassVar[str] = "the patch on every image, the answers shifted back"

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        inputs = self.predictor.normalize(pixels)
        patched = self.patch.on(self.predictor.normalization)(inputs)
        logits = unshift_logits(self.predictor.forward(patched))
        return Response(logits, variants={"unpatched": self.predictor.forward(inputs)} if is_full else {})


@dataclasses.dataclass(frozen=True)
class PDB(Defense):
    """Plants a defensive backdoor with verified images, and uses it on every image.

    The authors verify 10 % of the training set; a run's verified set is 5 % by default (``verified_rate``).

    Attributes:
        patch: what is written where.
        repeats: how often each verified image is met in an epoch. An epoch is the untrusted set and these, in one
            random order.
    """

    patch: Stamp = PATCH
    repeats: int = 5

    summary: ClassVar[str] = "plant a stronger backdoor with verified images; patch every input, undo its label"
    source: ClassVar[str] = "Wei, Zha, Wu 2024"
    needs: ClassVar[frozenset[str]] = frozenset({"verified"})

    def __post_init__(self) -> None:
        check_positive("repeats", self.repeats)

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        self.patch.check(dataset.images)

    def mixed(self, dataset: Dataset, verified: Dataset) -> tuple[Dataset, Tensor]:
        """The training set with the verified images behind it, with shifted labels and still without the patch.

        Returns:
            N + ``repeats`` R samples, and bool of this length: those that are trained with the patch.
        """
        shifted = shift_labels(verified.labels, dataset.num_classes)
        images = torch.cat([dataset.images, *[verified.images] * self.repeats])
        labels = torch.cat([dataset.labels, *[shifted] * self.repeats])
        return dataset.replace(images=images, labels=labels, files=None), torch.arange(len(labels)) >= len(dataset)

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.verified is not None
        both, is_defensive = self.mixed(dataset, given.verified)
        smoothing = trainer.recipe.label_smoothing
        step = StampedTraining(self.patch, is_defensive, dataset.normalization, trainer.device, smoothing)
        watch = functools.partial(Patched, patch=self.patch)
        trained = trainer.train(both, f"{TRAINING} (pdb)", step=step, watch=watch)
        return Defended(Patched(trained.predictor, self.patch), {TRAINING: trained})
