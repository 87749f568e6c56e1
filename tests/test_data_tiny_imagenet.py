"""tiny-ImageNet: its parquet files, and the real data."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import CIFAR10_ROOT
from pictures import encoded, forbid_decoding, picture, write_parquet

from nab.data import load
from nab.data.tiny_imagenet import FINGERPRINTS, TinyImageNet
from nab.errors import ConfigError, DataError

TINY_ROOT = Path(CIFAR10_ROOT or "") / "tiny-imagenet-32"


@pytest.fixture
def tiny(tmp_path):
    """Three training images and a validation image of 32 x 32, one of them gray, and the names of the classes."""
    folder = tmp_path / "tiny-imagenet-32"
    write_parquet(folder / "train-00000-of-00002.parquet", [10, 20], [0, 199], column="image")
    write_parquet(folder / "valid-00000-of-00001.parquet", [40], [7], column="image")
    gray = encoded(picture(30, (32, 32), "L"), "JPEG")
    write_parquet(folder / "train-00001-of-00002.parquet", [gray], [5], column="image")
    lines = [f'{label},n{label:08},"kind {label}, also {label}"' for label in range(200)]
    (folder / "classes.csv").write_text("\n".join(["label,wnid,name", *lines]))
    return tmp_path


def test_tiny_imagenet_has_its_images_labels_and_names(tiny):
    train, test = load("tiny-imagenet", tiny)
    pairs = {(int(image[0, 0, 0]), int(label)) for image, label in zip(train.images, train.labels, strict=True)}
    assert pairs == {(10, 0), (20, 199), (30, 5)}
    assert train.images.shape == (3, 3, 32, 32)
    assert (test.images.unique().tolist(), test.labels.tolist()) == ([40], [7])
    assert train.classes == test.classes == tuple(f"kind {label}" for label in range(200))
    assert TinyImageNet().provenance(train, test) == "differs from the published data"


@pytest.mark.parametrize("name", ["tiny-imagenet-32", "tiny-imagenet", "."])
def test_tiny_imagenet_is_found_in_three_places(tiny, name):
    expected = load("tiny-imagenet", tiny)[0].fingerprint
    root = tiny / "tiny-imagenet-32" if name == "." else tiny
    if name == "tiny-imagenet":
        (tiny / "tiny-imagenet-32").rename(tiny / name)
    assert load("tiny-imagenet", root)[0].fingerprint == expected


def test_tiny_imagenet_is_scaled_down_and_never_up(tiny):
    for size in (16, 8, 32):  # each must find only its own in the cache
        for _ in range(2):
            train = load("tiny-imagenet", tiny / "tiny-imagenet-32", size=size)[0]
            assert train.images.shape == (3, 3, size, size)
    with pytest.raises(DataError, match=r"row 0: expected an image of at least 33 x 33 pixels, got 32 x 32; set"):
        load("tiny-imagenet", tiny / "tiny-imagenet-32", size=33)
    with pytest.raises(ConfigError, match="size to be a whole number from 8 to 64, got 65"):
        load("tiny-imagenet", tiny, size=65)


def test_tiny_imagenet_is_decoded_once(tiny, monkeypatch):
    first = load("tiny-imagenet", tiny)
    forbid_decoding(monkeypatch)
    second = load("tiny-imagenet", tiny)
    assert [part.fingerprint for part in first] == [part.fingerprint for part in second]
    assert first[0].classes == second[0].classes


def test_classes_without_a_table_are_called_by_their_labels(tiny):
    assert load("tiny-imagenet", tiny)[0].classes[7] == "kind 7"
    (tiny / "tiny-imagenet-32/classes.csv").unlink()
    assert load("tiny-imagenet", tiny)[0].classes[7] == "7"


@pytest.mark.parametrize(
    "content", ["", "label,wnid\n0,n0\n", "label,wnid,name\n0,n0,fish\n", "label,wnid,name\nx,n,f\n"]
)
def test_a_table_of_classes_that_lacks_any_is_named(tiny, content):
    (tiny / "tiny-imagenet-32/classes.csv").write_text(content)
    with pytest.raises(DataError, match=r"classes\.csv: expected columns label, wnid and name.*from 0 to 199"):
        load("tiny-imagenet", tiny)


def test_tiny_imagenet_that_is_not_there_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no data folder was named; .*tiny-imagenet/ with --data-root"):
        load("tiny-imagenet")
    with pytest.raises(DataError, match=r"nowhere does not exist; .*--data-root"):
        load("tiny-imagenet", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no train-\*\.parquet and valid-\*\.parquet of tiny-ImageNet"):
        load("tiny-imagenet", tmp_path)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", [1], [0], column="image")
    with pytest.raises(DataError, match=r"no valid-\*\.parquet"):
        load("tiny-imagenet", tmp_path)


@pytest.mark.cifar10
@pytest.mark.skipif(not TINY_ROOT.is_dir(), reason="needs tiny-imagenet-32/ in the folder named by NAB_DATA")
def test_tiny_imagenet_is_the_known_copy_and_starts_in_a_second_when_it_is_decoded(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NAB_CACHE", str(tmp_path_factory.mktemp("tiny-imagenet-cache")))
    train, test = load("tiny-imagenet", CIFAR10_ROOT)
    assert (len(train), len(test)) == (100_000, 10_000)
    assert train.labels.bincount().tolist() == [500] * 200
    assert test.labels.bincount().tolist() == [50] * 200
    parts = {"train": train, "test": test}
    assert {name: part.replace(labels=part.labels).fingerprint for name, part in parts.items()} == FINGERPRINTS
    assert TinyImageNet().provenance(train, test) == "published"
    assert (train.classes[0], train.classes[199]) == ("goldfish", "acorn")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        again, _ = load("tiny-imagenet", CIFAR10_ROOT)
        assert int(again.images[-1].sum()) == int(train.images[-1].sum()), "the pixels are really there"
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
