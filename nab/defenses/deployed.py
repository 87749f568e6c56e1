"""What a defense deploys: something that answers images with labels, refusals and scores."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from nab.defenses.pixels import check_pixels
from nab.digest import digest
from nab.errors import NabError
from nab.training import BATCH_SIZE, Predictor, fitting

REFUSED = -1
"""The label of an image that is refused."""


class Response(NamedTuple):
    """What is said of a batch, on the device.

    Attributes:
        logits: float32, B x K.
        is_refused: bool, B; None if nothing is ever refused.
        scores: float32, B; how likely the image carries a trigger, higher = more likely. None if there is no score.
        variants: logits of other ways to use the same network, by name: without its stamp, for example.
    """

    logits: Tensor
    is_refused: Tensor | None = None
    scores: Tensor | None = None
    variants: Mapping[str, Tensor] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What is said of images, on the CPU.

    Attributes:
        labels: int64, N; the most likely class, also of images that are refused.
        is_refused: bool, N; None if nothing is ever refused.
        scores: float32, N; higher = more likely to carry a trigger. None if there is no score.
        variants: int64, N each; the labels by other ways to use the same network, by name.
    """

    labels: Tensor
    is_refused: Tensor | None = None
    scores: Tensor | None = None
    variants: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def accepted(self) -> Tensor:
        """int64, N; the labels, `REFUSED` (-1) where the image is refused."""
        return self.labels if self.is_refused is None else self.labels.masked_fill(self.is_refused, REFUSED)


@dataclasses.dataclass(frozen=True, eq=False)
class Deployed(abc.ABC):
    """A network as it is used after a defense.

    A subclass is a frozen dataclass and writes `respond` alone. Everything that its answers depend on is one of its
    fields; so its key, saving and loading follow from the fields.

    Attributes:
        predictor: the network, its normalization, where and how it computes.
    """

    predictor: Predictor

    summary: ClassVar[str]
    refuses: ClassVar[bool] = False
    """Whether a refusal is its answer. If not, refusals are advice: labels are counted without them, and once more
    after them."""

    kinds: ClassVar[dict[str, type[Deployed]]] = {}
    """Every class of deployed defense by name, for loading."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = Deployed.kinds.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise TypeError(f"expected a name of its own for {cls.__module__}.{cls.__name__}, got that of {known}")
        Deployed.kinds[cls.__name__] = cls

    @abc.abstractmethod
    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        """What is said of a batch; made of tensor operations alone, so that it can be exported.

        Args:
            pixels: uint8 or float32, B x C x H x W, 0 to 255, on the device.
            is_full: whether all is wanted; else logits are enough, and what costs more may be left out.
        """

    @property
    def key(self) -> str:
        """32 hexadecimal digits of everything that the answers depend on.

        Raises:
            TypeError: the class is no dataclass of its own, an attribute is no field, or a field cannot be described.
        """
        if "__dataclass_fields__" not in vars(type(self)):
            raise TypeError(f"expected {type(self).__name__} to be decorated with dataclasses.dataclass(frozen=True)")
        fields = {field.name for field in dataclasses.fields(self)}
        hidden = {name for name in vars(self) if name not in fields}
        if hidden:
            raise TypeError(f"expected every attribute of {type(self).__name__} to be a field, got {sorted(hidden)}")
        return digest(self)

    @property
    def predictors(self) -> dict[str, Predictor]:
        """Every network that takes part, by the name of its field."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if isinstance(value, Predictor)}

    @torch.no_grad()
    def answer(self, images: Tensor) -> Answers:
        """What is said of images.

        Args:
            images: uint8, N x C x H x W, or float32 of the same range, 0 to 255. Every layer of the networks is left
                in evaluation mode.

        Raises:
            ConfigError: the images are of another size, type or range.
            NabError: a logit or a score is not a number.
        """
        check_pixels(images, self.predictor)
        for predictor in self.predictors.values():
            predictor.network.eval()
        device = self.predictor.runtime.device
        responses = [
            self.respond(batch.to(device, non_blocking=True)) for batch in images.split(fitting(BATCH_SIZE, images))
        ]
        for response in responses:
            self._check_numbers(response)
        return Answers(
            torch.cat([response.logits.argmax(1) for response in responses]).cpu(),
            _joined([response.is_refused for response in responses]),
            _joined([response.scores for response in responses]),
            {
                name: torch.cat([response.variants[name].argmax(1) for response in responses]).cpu()
                for name in responses[0].variants
            },
        )

    def to(self, device: torch.device) -> Self:
        """The same on another device; the networks themselves are moved, as torch does it."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor | Predictor)
        }
        return dataclasses.replace(self, **moved)

    def labels(self, images: Tensor) -> Tensor:
        """The answer to every image as it is deployed: int64, N, `REFUSED` (-1) where a refusal is the answer."""
        answers = self.answer(images)
        return answers.accepted if self.refuses else answers.labels

    def _check_numbers(self, response: Response) -> None:
        # The largest of NaNs is class 0, often the attacker's; a rank of NaN is the highest.
        parts = {"a logit": response.logits, "a score": response.scores} | dict(response.variants)
        wrong = [name for name, part in parts.items() if part is not None and bool(part.isnan().any())]
        if wrong:
            raise NabError(
                f"{type(self).__name__} answers with NaN ({', '.join(wrong)}): its network was trained or changed "
                "beyond use; take a lower learning rate, or change less"
            )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """The batches' tensors in one, on the CPU; None where there are none."""
    kept = [part for part in parts if part is not None]
    return torch.cat(kept).cpu() if kept else None


@dataclasses.dataclass(frozen=True, eq=False)
class Plain(Deployed):
    """The network's own answers."""

    summary: ClassVar[str] = "the network as it is"

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        return Response(self.predictor.forward(self.predictor.normalize(pixels)))
