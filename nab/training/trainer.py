"""`Trainer`: how and where a method trains its networks, and who keeps them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nab.data import Dataset
from nab.digest import SCHEMA, describe, digest
from nab.errors import ConfigError, DataError
from nab.models import Architecture, ResNet18
from nab.seeding import derive, stream
from nab.source_code import NoSource
from nab.training.batches import Batches
from nab.training.keeping import Keeper, Ledger, Memory, Output
from nab.training.loop import Trained, fit
from nab.training.monitoring import Watch, current_monitor, note_curve
from nab.training.predictor import Predictor, without_gradient
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime, resolve_precision
from nab.training.step import CrossEntropy, Step
from nab.training.weights import pack_weights, unpack_weights

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """How networks are trained, where, with which seed, and who keeps them.

    Attributes:
        recipe: of the final network; methods derive their own from it.
        architecture: of every classifier.
        seed: every random choice of a method comes from it.
        device: where networks are trained.
        keeper: keeps the output of stages; by default the last ones stay in memory.
        ledger: what the stages cost.
    """

    recipe: Recipe = Recipe()
    architecture: Architecture = ResNet18()
    seed: int = 0
    device: torch.device = torch.device("cpu")
    keeper: Keeper = dataclasses.field(default_factory=Memory)
    ledger: Ledger = dataclasses.field(default_factory=Ledger)

    def fresh(self, dataset: Dataset, purpose: str, recipe: Recipe | None = None) -> Predictor:
        """An untrained network for images and classes like those of ``dataset``; ``purpose`` gives it a seed.

        Raises:
            ConfigError: the network cannot be made.
        """
        shape = (dataset.images.shape[1], dataset.images.shape[2], dataset.images.shape[3])
        network = self.architecture.build(dataset.num_classes, shape, derive(self.seed, purpose))
        runtime = Runtime.choose(self.device, (recipe or self.recipe).precision, network)
        fixed = without_gradient(network)
        return Predictor(
            runtime.place(network), dataset.normalization, runtime, self.architecture, dataset.classes, shape, fixed
        )

    def train(
        self,
        dataset: Dataset,
        purpose: str,
        *,
        recipe: Recipe | None = None,
        step: Step | None = None,
        start: Predictor | None = None,
        beside: Mapping[str, Dataset] | None = None,
        watch: Watch | None = None,
    ) -> Trained:
        """A network trained on ``dataset``, or the very same one from the cache.

        Args:
            dataset: images and the labels to learn.
            purpose: names the stage and gives it seeds of its own.
            recipe: how; the final network's by default. Its label smoothing is that of plain training; a ``step`` has
                its own.
            step: what is minimized; plain training by default. The network is never kept if ``Step.inputs`` is None.
            start: the network from whose weights the training goes on; it is left as it is. Its normalization is kept,
                and so are its ``fixed`` weights. A fresh network by default.
            beside: further sets by name; every step gets a batch of each, in this order.
            watch: makes of the network what is to be deployed, which the runner's monitor measures after every epoch.

        Raises:
            ConfigError: ``start`` has other classes than ``dataset``.
            DataError: one of the sets has fewer than two images.
            NabError: the loss stopped being a finite number.
        """
        recipe, beside = recipe or self.recipe, beside or {}
        step = step or CrossEntropy(recipe.label_smoothing)
        _check(purpose, dataset, beside, start)
        monitor = current_monitor() if watch is not None else None
        seed = derive(self.seed, purpose)

        def begin() -> Predictor:
            predictor = self.fresh(dataset, purpose, recipe) if start is None else self._copy(start, recipe)
            return predictor.trainable()

        def observe(predictor: Predictor) -> dict[str, float]:
            assert monitor is not None
            assert watch is not None
            return monitor(watch(predictor))

        def make() -> Trained:
            predictor = begin()

            def batches(part: Dataset, name: str) -> Batches:
                alike = part.replace(normalization=predictor.normalization)
                return Batches(alike, recipe, self.device, stream(seed, name, self.device))

            others = [batches(part, f"batches of {name}") for name, part in beside.items()]
            observer = None if monitor is None else observe
            source = batches(dataset, "batches")
            return fit(predictor, source, recipe, step, beside=others, observe=observer, title=purpose)

        if step.inputs is None:
            with self.ledger.part(purpose):
                trained = make()
            return _seal(trained, purpose, is_watched=monitor is not None)
        inputs = {
            "dataset": dataset,
            "recipe": recipe.effective(),
            "arithmetic": resolve_precision(recipe.precision, self.device),
            "architecture": self.architecture if start is None else None,
            "seed": seed,
            "step": {"class": type(step), "inputs": step.inputs},
            "start": start,
            "beside": list(beside.items()),
            **({"fixed": list(start.fixed)} if start is not None and start.fixed else {}),
            "watched": None if monitor is None else {"by": monitor.inputs, "as": watch},
        }
        output = self.keep(purpose, inputs, lambda: _pack(make()))
        trained = _unpack(output, begin())
        return _seal(trained, purpose, is_watched=monitor is not None)

    def _copy(self, start: Predictor, recipe: Recipe) -> Predictor:
        """A copy on the trainer's device and in the recipe's precision."""
        copy = start.copy()
        runtime = Runtime.choose(self.device, recipe.precision, copy.network)
        return dataclasses.replace(copy, network=runtime.place(copy.network), runtime=runtime)

    def keep(self, stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        """What ``make`` returns, or the same from the cache.

        It is not kept if ``inputs`` has a class or function that cannot be told apart from another one; see
        `nab.source_code.NoSource`.

        Args:
            stage: a short name.
            inputs: everything that the output depends on; see `nab.digest.describe`. The schema's number, the kind of
                device and the precision are added here.
            make: does the work; its tensors are on the CPU.

        Raises:
            TypeError: an input cannot be described.
        """
        with self.ledger.asking():
            described = self._describe(stage, inputs)
        if described is None:
            with self.ledger.part(stage):
                return make()
        key = digest({**described, "stage": stage})

        def timed() -> Output:
            with self.ledger.making(stage, key) as costs:
                output = _checked(stage, make())
            return dataclasses.replace(output, costs=costs)

        with self.ledger.asking():
            output = self.keeper(stage, described, timed)
        self.ledger.count(output)
        return output

    def _describe(self, stage: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            described = describe(dict(inputs))
        except NoSource as reason:
            log.info("the stage %r is not kept: %s", stage, reason)
            return None
        precision = str(resolve_precision(self.recipe.precision, self.device))
        return {"schema": SCHEMA, "inputs": described, "device": self.device.type, "precision": precision}


def _check(purpose: str, dataset: Dataset, beside: Mapping[str, Dataset], start: Predictor | None) -> None:
    for name, part in {"training": dataset, **beside}.items():
        if len(part) < 2:
            raise DataError(f"{purpose}: expected at least two {name} images, got {len(part)}")
    if start is not None and start.classes and start.shape[0] != dataset.images.shape[1]:
        raise ConfigError(
            f"{purpose}: expected a network for {dataset.images.shape[1]} channels, got one for {start.shape[0]}"
        )
    if start is not None and start.classes not in ((), dataset.classes):
        raise ConfigError(
            f"{purpose}: expected a network for the classes {', '.join(dataset.classes)}, got one for "
            f"{', '.join(start.classes)}"
        )


def _checked(stage: str, output: Output) -> Output:
    """The output with its values as JSON gives them back, so that what is made equals what is found.

    Raises:
        ConfigError: a value is none that JSON has, or a tensor is none.
    """
    wrong = [name for name, value in output.tensors.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ConfigError(f"stage {stage!r}: expected tensors, got something else for {', '.join(wrong)}")
    try:
        return dataclasses.replace(output, values=json.loads(json.dumps(dict(output.values))))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"stage {stage!r}: expected values that JSON has ({error})") from None


def _pack(trained: Trained) -> Output:
    values = {"curve": trained.curve, "images_per_second": trained.images_per_second}
    return Output(pack_weights(trained.predictor.network), values)


def _seal(trained: Trained, purpose: str, *, is_watched: bool) -> Trained:
    """The training as a method may see it: what was measured goes into the log of the monitor instead."""
    if is_watched:
        note_curve(purpose, trained.curve)
    curve = [{name: value for name, value in row.items() if name in ("epoch", "loss", "lr")} for row in trained.curve]
    return dataclasses.replace(trained, curve=curve, purpose=purpose)


def _unpack(output: Output, predictor: Predictor) -> Trained:
    unpack_weights(output.tensors, predictor.network)
    curve = [dict(row) for row in output.values["curve"]]
    return Trained(predictor, curve, output.values["images_per_second"])
