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
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nab.checks import check_positive
from nab.data import Dataset, Normalization
from nab.defenses.base import TRAINING, Defended, Defense
from nab.defenses.deployed import Deployed, Response
from nab.needs import Given
from nab.stamp import Stamp
from nab.training import Batch, CrossEntropy, Trainer


@dataclasses.dataclass(frozen=True)
class Patch:
    """A square of one brightness in a corner.

    Attributes:
        size: side in pixels, at most half of the image.
        corner: which corner it fills; see `nab.stamp.CORNERS`.
        value: what is written, in all channels, where 0 is black and 1 is white. At 2 no image of 8 bits can hold it,
            so neither the attacker nor chance can write it.
    """

    size: int = 7
    corner: str = "upper-left"
    value: float = 2.0

    def __post_init__(self) -> None:
        Stamp(self.size, self.corner, self.value)  # its checks

    def check(self, images: Tensor) -> None:
        """Raise ``ConfigError`` if the patch is larger than half of the images (N x C x H x W)."""
        Stamp(self.size, self.corner).check(images)

    def apply(self, images: Tensor, normalization: Normalization, where: Tensor | None = None) -> Tensor:
        """The images with the patch; the argument is left as it was.

        Args:
            images: float, N x C x H x W, normalized.
            normalization: what they went through.
            where: bool, N; patches only these. All by default.

        Raises:
            ConfigError: the patch is larger than half an image.
        """
        blank = images.new_zeros(1, 1, *images.shape[2:])
        is_patch = Stamp(self.size, self.corner, value=1.0).apply(blank) > 0
        if where is not None:
            is_patch = is_patch & where[:, None, None, None]
        return torch.where(is_patch, normalization.level(self.value, images.shape[1], images.device), images)


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

    patch: Patch = Patch()

    summary: ClassVar[str] = "the patch on every image, the answers shifted back"

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        inputs = self.predictor.normalize(pixels)
        patched = self.patch.apply(inputs, self.predictor.normalization)
        logits = unshift_logits(self.predictor.forward(patched))
        return Response(logits, variants={"unpatched": self.predictor.forward(inputs)} if is_full else {})


class PatchedTraining(CrossEntropy):
    """Plain training with the patch on chosen samples, written after all augmentation.

    Args:
        patch: what is written where.
        normalization: of the images.
        is_defensive: bool, N, on the CPU; who gets it.
        device: where the training runs.
        label_smoothing: see `CrossEntropy`.
    """

    is_static: ClassVar[bool] = True

    def __init__(
        self,
        patch: Patch,
        normalization: Normalization,
        is_defensive: Tensor,
        device: torch.device,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        self._patch, self._normalization, self._told = patch, normalization, is_defensive
        self._is_defensive = is_defensive.to(device)

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        return {"label_smoothing": self.label_smoothing, "patch": self._patch, "is_defensive": self._told}

    def images(self, batch: Batch) -> Tensor:
        return self._patch.apply(batch.images, self._normalization, self._is_defensive[batch.positions])


@dataclasses.dataclass(frozen=True)
class PDB(Defense):
    """Plants a defensive backdoor with verified images, and uses it on every image.

    The authors verify 10 % of the training set; a run's verified set is 5 % by default (``verified_rate``).

    Attributes:
        patch: what is written where.
        repeats: how often each verified image is met in an epoch. An epoch is the untrusted set and these, in one
            random order.
    """

    patch: Patch = Patch()
    repeats: int = 5

    summary: ClassVar[str] = "plant a stronger backdoor with verified images; patch every input, undo its label"
    source: ClassVar[str] = "Wei, Zha, Wu 2024"
    needs: ClassVar[frozenset[str]] = frozenset({"verified"})

    def __post_init__(self) -> None:
        check_positive("repeats", self.repeats)

    def check(self, dataset: Dataset) -> None:
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
        step = PatchedTraining(
            self.patch, dataset.normalization, is_defensive, trainer.device, trainer.recipe.label_smoothing
        )
        watch = functools.partial(Patched, patch=self.patch)
        trained = trainer.train(both, f"{TRAINING} (pdb)", step=step, watch=watch)
        return Defended(Patched(trained.predictor, self.patch), {TRAINING: trained})
