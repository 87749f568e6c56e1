"""Canonical descriptions of values, and the hash of one. What is kept under a hash depends on nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ADDED_LATER = "added later"


def later(default: Any) -> Any:
    """The default of a dataclass's field that was added after outputs had been kept.

    It must mean what was done before, and never change: `describe` leaves the field out where it has this value, so
    that what was kept is still found.
    """
    return dataclasses.field(default=default, metadata={ADDED_LATER: True})


def describe(value: Any) -> Any:
    """``value`` as JSON says it: tensors and whatever has a ``digest`` by content, dataclasses by name and fields.

    Args:
        value: None, bool, int, float, str, Tensor, an object with a ``digest`` (str), a dataclass, or a mapping with
            strings as keys, list or tuple of such.

    Raises:
        TypeError: a value is of another kind, so that two different ones could not be told apart.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape))} {tensor_digest(value)}"
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(digest := getattr(value, "digest", None), str):
        return f"{type(value).__name__} {digest}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in _said(value)}
        return {"is": type(value).__name__} | fields
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"expected a mapping whose keys are strings, got {list(value)}")
        return {key: describe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    raise TypeError(f"expected a value that JSON, its fields or its content can describe, got {type(value).__name__}")


def _said(value: Any) -> list[dataclasses.Field[Any]]:
    """The fields that were there from the start, and later ones that have another value than their default."""
    return [
        field
        for field in dataclasses.fields(value)
        if ADDED_LATER not in field.metadata or getattr(value, field.name) != field.default
    ]


def digest(value: Any) -> str:
    """32 hexadecimal digits that follow from `describe`; the order of a mapping's keys does not matter."""
    text = json.dumps(describe(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tensor_digest(*tensors: Tensor) -> str:
    """32 hexadecimal digits of the tensors' bytes, in row-major order."""
    # Seen as bytes because numpy has no bfloat16.
    return bytes_digest(*(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data for t in tensors))


def bytes_digest(*parts: bytes | memoryview) -> str:
    """32 hexadecimal digits of the parts, one after the other."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(part)
    return total.hexdigest()
