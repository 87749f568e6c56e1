"""Saving and loading what was deployed: one safetensors file, whose header says in JSON what the tensors are.

Nothing in a file is executed: a network is made again by an architecture of `nab.models`, or handed over by the caller.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import PydanticUserError, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nab import __version__
from nab.checks import check_choice
from nab.data import Normalization
from nab.defenses.deployed import Deployed
from nab.digest import SCHEMA
from nab.errors import ConfigError, DataError, NabError
from nab.files import write_atomically
from nab.models import MODELS, Architecture, Custom, as_network, structure
from nab.registry import build, make_dataclass, nested_dataclass
from nab.source_code import NoSource
from nab.training import (
    PRECISIONS,
    Predictor,
    Runtime,
    pack_weights,
    resolve_device,
    state_of,
    unpack_weights,
    without_gradient,
)

HEADER = "nab"
"""The key of the JSON header among the file's metadata."""

LOADABLE = {name: kind for name, kind in MODELS.items() if kind is not Custom}
"""Architectures that a file may name; a custom one is an import path, and what it imports would be run."""

PLAIN = (bool, int, float, str, type(None))


def save_deployed(deployed: Deployed, path: str | Path, *, run: str | None = None) -> Path:
    """Store a deployed defense in one file.

    Args:
        deployed: what to store.
        path: of the file; it is written whole or not at all.
        run: the hash of the run that made it, for the header.

    Returns:
        the path.

    Raises:
        ConfigError: a field can be stored neither as a tensor nor as JSON.
        DataError: the file cannot be written.
    """
    target = Path(path).expanduser()
    tensors: dict[str, Tensor] = {}
    header = {
        "schema": SCHEMA,
        "class": type(deployed).__name__,
        "fields": {
            field.name: _encode(getattr(deployed, field.name), field.name, tensors)
            for field in dataclasses.fields(deployed)
        },
        "run": run,
        "versions": {"nab": __version__, "torch": torch.__version__},
    }
    try:
        metadata = {HEADER: json.dumps(header)}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{type(deployed).__name__} has a field that cannot be stored: {error}") from None
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(target, lambda temporary: save_file(whole, temporary, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{target} cannot be written ({error})") from None
    return target


def load_deployed(path: str | Path, *, device: str = "auto", network: nn.Module | None = None) -> Deployed:
    """What `save_deployed` stored, ready to answer.

    Args:
        path: of the file.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        network: a network of the stored one's kind, of which a copy is filled; needed for a network of your own, which
            no file can make.

    Raises:
        ConfigError: the class that was deployed is not known here, or the network must be handed over.
        DataError: the file is missing, damaged, none of ours, or of another version.
    """
    source = Path(path).expanduser()
    header, tensors = _read(source)
    kind = Deployed.kinds.get(header["class"])
    if kind is None:
        raise ConfigError(
            f"{source} holds a {header['class']!r}, which is not known here: import the module that defines it first"
        )
    hints = typing.get_type_hints(kind)
    where = resolve_device(device)
    try:
        fields = {
            name: _decode(value, hints[name], name, tensors, where, network) for name, value in header["fields"].items()
        }
        return kind(**fields)
    except NabError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError, PydanticUserError) as error:
        raise DataError(f"{source} does not fit this version of {header['class']} ({error})") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and all tensors.

    Raises:
        DataError: see `load_deployed`.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file")
    try:
        with safe_open(path, framework="pt") as stored:
            header = json.loads((stored.metadata() or {})[HEADER])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except KeyError:
        raise DataError(f"{path} was not written by save_deployed: it has no header {HEADER!r}") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged or no safetensors file ({error})") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise DataError(f"{path} was written by another version (schema {found}, this version reads {SCHEMA})")
    if not isinstance(header.get("class"), str) or not isinstance(header.get("fields"), dict):
        raise DataError(f"{path} is damaged (its header names no class or no fields)")
    return header, tensors


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A field as JSON; its tensors are added to ``tensors`` under names that begin with the field's."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone()  # two fields may be views of one tensor
        return {"tensor": name}
    if isinstance(value, Predictor):
        tensors |= pack_weights(value.network, f"{name}.")
        return {
            "weights": f"{name}.",
            "architecture": _encode_architecture(value),
            "normalization": dataclasses.asdict(value.normalization),
            "precision": str(value.runtime.precision).removeprefix("torch."),
            "classes": list(value.classes),
            "shape": list(value.shape),
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"values": dataclasses.asdict(value)}
    if isinstance(value, tuple) and all(isinstance(part, PLAIN) for part in value):
        return list(value)
    raise ConfigError(f"field {name!r} cannot be stored: it is a {type(value).__name__}")


def _encode_architecture(predictor: Predictor) -> dict[str, Any] | None:
    """Name and parameters; None for a network that no file can make, or that was changed since it was made."""
    names = {kind: name for name, kind in LOADABLE.items()}
    architecture = predictor.architecture
    if architecture is None or type(architecture) not in names:
        return None
    try:
        is_same = structure(predictor.network) == structure(architecture.build(len(predictor.classes), predictor.shape))
    except NoSource:  # a hook, for example
        return None
    return {"name": names[type(architecture)], "params": dataclasses.asdict(architecture)} if is_same else None


def _decode(
    value: Any,
    hint: Any,
    name: str,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    network: nn.Module | None,
) -> Any:
    """The reverse of `_encode`; ``hint`` is the field's type."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nested = nested_dataclass(hint)
    if isinstance(value, dict) and "weights" in value and Predictor in kinds:
        return _decode_predictor(value, tensors, device, network)
    if isinstance(value, dict) and "tensor" in value and Tensor in kinds:
        return tensors[value["tensor"]].to(device)
    if isinstance(value, dict) and "values" in value and nested is not None:
        return make_dataclass(f"field {name!r}", nested, value["values"])
    return TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)


def _decode_predictor(
    value: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, network: nn.Module | None
) -> Predictor:
    shape, classes, told = tuple(value["shape"]), tuple(value["classes"]), value["architecture"]
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"expected a shape of three whole numbers, got {shape}")
    check_choice("precision", value["precision"], PRECISIONS)
    architecture = None if told is None else build("model", told["name"], LOADABLE, told["params"])
    if architecture is not None:
        _check_sizes(architecture, len(classes), shape, tensors, value["weights"])
        empty = architecture.build(len(classes), shape)
    elif network is not None:
        empty = copy.deepcopy(network)  # two fields may ask for one
        names = {name.removeprefix(value["weights"]) for name in tensors if name.startswith(value["weights"])}
        if names != state_of(empty).keys():  # it was stored behind the protocol
            empty = as_network(empty, shape)
    else:
        raise ConfigError("the file holds a network of somebody's own: pass one of its kind as network")
    fixed = without_gradient(empty)
    filled = unpack_weights(tensors, empty, value["weights"])
    runtime = Runtime.choose(device, value["precision"], filled)
    normalization = make_dataclass("normalization", Normalization, value["normalization"])
    return Predictor(runtime.place(filled), normalization, runtime, architecture, classes, shape, fixed)


def _check_sizes(
    architecture: Architecture,
    num_classes: int,
    shape: tuple[int, int, int],
    tensors: Mapping[str, Tensor],
    prefix: str,
) -> None:
    """Raise ``ValueError`` before memory is taken for a network that the file's weights do not fill."""
    with torch.device("meta"):
        sizes = {name: value.shape for name, value in state_of(architecture.make(num_classes, shape)).items()}
    stored = {name.removeprefix(prefix): value.shape for name, value in tensors.items() if name.startswith(prefix)}
    if sizes != stored:
        wrong = sorted(name for name in sizes.keys() | stored.keys() if sizes.get(name) != stored.get(name))
        raise ValueError(f"the weights belong to another network: {wrong[0]} has another size")
