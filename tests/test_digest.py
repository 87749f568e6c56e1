"""Equal values have equal digests, and whatever is told apart by the eye is told apart by the digest."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from helpers import Sibling, Twin, random_dataset
from hypothesis import given
from hypothesis import strategies as st

from nab.attacks import Triggered
from nab.digest import bytes_digest, describe, digest, tensor_digest
from nab.training import Recipe

NAMES = st.text(max_size=5)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float32, torch.float16, torch.bfloat16]
SHAPES = st.lists(st.integers(1, 4), max_size=4)


def tensor(shape: list[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(VALUES)
def test_a_value_is_as_its_json_says(value):
    assert digest(value) == digest(json.loads(json.dumps(value)))
    assert len(digest(value)) == 32


@given(VALUES, VALUES)
def test_two_values_have_one_digest_just_when_their_json_is_the_same(one, other):
    is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) == is_same


@given(st.dictionaries(NAMES, PLAIN, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_a_mappings_keys_does_not_matter(mapping, random):
    items = list(mapping.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(mapping)


@given(st.dictionaries(NAMES, PLAIN, min_size=1, max_size=6), st.data())
def test_every_entry_of_a_mapping_matters(mapping, data):
    key = data.draw(st.sampled_from(sorted(mapping)))
    other = data.draw(PLAIN.filter(lambda value: json.dumps(value) != json.dumps(mapping[key])))
    assert digest(mapping | {key: other}) != digest(mapping)
    assert digest({name: value for name, value in mapping.items() if name != key}) != digest(mapping)


@given(SHAPES, st.sampled_from(DTYPES), st.data())
def test_every_element_of_a_tensor_matters(shape, dtype, data):
    """Also of one without dimensions."""
    value = tensor(shape, dtype)
    changed = value.clone().flatten()
    position = data.draw(st.integers(0, value.numel() - 1))
    changed[position] = 1 - changed[position].int()
    assert digest(value.clone()) == digest(value)
    assert digest(changed.view(shape)) != digest(value)
    assert describe(value).startswith(str(dtype).removeprefix("torch."))


@given(SHAPES, st.permutations(DTYPES))
def test_a_tensors_dtype_matters_even_where_its_bytes_do_not(shape, dtypes):
    one, other = (torch.zeros(shape, dtype=dtype) for dtype in dtypes[:2])
    assert digest(one) != digest(other)


@pytest.mark.parametrize("shape", [(4, 3), (2, 6), (12,), (1, 12), (12, 1), (3, 4)])
def test_a_tensors_shape_matters(shape):
    values = torch.arange(12)
    others = [(4, 3), (2, 6), (12,), (1, 12), (12, 1), (3, 4)]
    digests = {digest(values.view(other)) for other in others if other != shape}
    assert digest(values.view(shape)) not in digests
    assert len(digests) == len(others) - 1


def test_a_tensor_is_its_content_and_not_its_layout():
    images = torch.arange(48).view(2, 3, 2, 4)
    assert digest(images.contiguous(memory_format=torch.channels_last)) == digest(images)
    assert digest(images[:, :, :, ::2]) == digest(images[:, :, :, ::2].clone())
    assert digest(images.float().requires_grad_()) == digest(images.float())


def test_empty_tensors_differ_by_shape():
    assert digest(torch.zeros(0, 3)) != digest(torch.zeros(0, 4))


def test_the_order_of_rows_matters_to_the_digest_and_not_to_the_fingerprint():
    dataset = random_dataset(12)
    turned = dataset.subset(torch.arange(12).flip(0))
    assert digest(turned) != digest(dataset)
    assert turned.fingerprint == dataset.fingerprint


@pytest.mark.parametrize("part", ["images", "labels", "classes", "shape"])
def test_every_part_of_a_dataset_matters_but_its_name(part):
    dataset = random_dataset(12)
    assert digest(dataset.replace(name="another")) == digest(dataset)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[3, 1, 2, 5] ^= 1
    labels[7] = (labels[7] + 1) % 4
    changed = {
        "images": dataset.replace(images=images),
        "labels": dataset.replace(labels=labels),
        "classes": dataset.replace(classes=tuple("abce")),
        "shape": dataset.replace(images=dataset.images.view(12, 3, 4, 16)),
    }
    assert digest(changed[part]) != digest(dataset)


@pytest.mark.parametrize("part", ["images", "true_labels", "attack_labels"])
def test_every_part_of_a_triggered_set_matters(part):
    parts = {
        "images": random_dataset(4).images,
        "true_labels": torch.tensor([0, 1, 2, 3]),
        "attack_labels": torch.zeros(4, dtype=torch.int64),
    }
    changed = parts[part].clone()
    changed.view(-1)[1] += 1
    assert digest(Triggered(**parts)) == digest(Triggered(**parts))
    assert digest(Triggered(**(parts | {part: changed}))) != digest(Triggered(**parts))


@given(st.floats(allow_nan=False), st.integers())
def test_a_dataclass_is_its_name_and_fields(rate, size):
    assert digest(Twin(rate, size)) == digest(Twin(rate, size))
    assert digest(Twin(rate, size)) != digest(Sibling(rate, size))
    assert digest(Twin(rate, size)) != digest(Twin(rate, size + 1))
    assert digest(Twin(rate, size)) != digest({"rate": rate, "size": size})


@dataclasses.dataclass(frozen=True)
class Grown:
    """A method that has got other fields since."""

    rate: float
    since: float = 1.0
    inner: Twin = Twin()
    names: list[str] = dataclasses.field(default_factory=list)
    nothing: int | None = None


def test_fields_that_have_their_defaults_are_left_out():
    """So a field that comes later changes nothing until it is set."""
    name = describe(Grown(0.5))["is"]
    assert describe(Grown(0.5)) == describe(Grown(0.5, 1.0, Twin(0.5), [], None)) == {"is": name, "rate": 0.5}
    assert describe(Grown(0.5, since=2.0)) == {"is": name, "rate": 0.5, "since": 2.0}
    assert describe(Grown(0.5, names=["a"])) == {"is": name, "rate": 0.5, "names": ["a"]}
    assert describe(Grown(0.5, nothing=0)) == {"is": name, "rate": 0.5, "nothing": 0}
    inner = describe(Twin(0.25))
    assert describe(Grown(0.5, inner=Twin(0.25))) == {"is": name, "rate": 0.5, "inner": inner}
    assert inner["rate"] == 0.25
    assert "size" not in inner


def test_a_value_of_another_type_is_not_the_default():
    assert describe(Grown(0.5, since=1)) != describe(Grown(0.5))
    assert describe(Grown(0.5, nothing=False)) != describe(Grown(0.5))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_of_a_recipe_matters(field):
    others: dict[str, Any] = {
        "schedule": "steps",
        "precision": "float32",
        "nesterov": True,
        "flip": False,
        "milestones": (3,),
        "batch_size": 32,
        "epochs": 7,
        "cutout": 5,
        "optimizer": "muon",
    }
    value = others.get(field, 0.25 if isinstance(getattr(Recipe(), field), float) else 9)
    assert digest(dataclasses.replace(Recipe(), **{field: value})) != digest(Recipe())


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, "1"), (1, 1.0), (None, "null"), ([1], 1), ([[1], 2], [1, [2]]), ({}, []), ("", None)],
    ids=repr,
)
def test_values_of_another_kind_are_other_values(one, other):
    assert digest(one) != digest(other)


def test_a_device_and_a_dtype_are_known_by_name():
    assert describe([torch.device("cpu"), torch.bfloat16]) == ["cpu", "torch.bfloat16"]


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 1j, len, torch.nn.Linear(1, 1)], ids=lambda v: type(v).__name__
)
def test_what_cannot_be_told_apart_is_refused_however_deep_it_lies(value):
    for wrapped in (value, [value], {"a": {"b": value}}):
        with pytest.raises(TypeError, match=f"got {type(value).__name__}"):
            digest(wrapped)


def test_a_digest_is_the_same_tomorrow():
    """Everything in everybody's cache hangs on it."""
    value = {"seed": 3, "lr": 0.1, "recipe": [None, True], "x": torch.arange(3)}
    assert digest(value) == "4b211af7b3494941be8823284ddfa918"
    assert tensor_digest(torch.tensor([1, 2], dtype=torch.uint8)) == bytes_digest(b"\x01", b"\x02")
