"""CIFAR-10: parquet files, torchvision's folder, and the real data."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CIFAR10_ROOT
from pictures import encoded, forbid_decoding, picture, write_parquet

from nab.data import load
from nab.data.cifar10 import CIFAR10, CLASSES, FINGERPRINTS
from nab.data.parquet import read_parquet
from nab.errors import DataError


@pytest.fixture
def shards(tmp_path):
    """Three training images in two files, and two test images, in the published layout."""
    write_parquet(tmp_path / "cifar10/train-00000-of-00002.parquet", [10, 20], [3, 5])
    write_parquet(tmp_path / "cifar10/train-00001-of-00002.parquet", [30], [9])
    write_parquet(tmp_path / "cifar10/test-00000-of-00001.parquet", [40, 50], [0, 1])
    return tmp_path


def test_parquet_files_give_their_images_with_their_labels(shards):
    train, test = load("cifar10", shards)
    pairs = {(int(image[0, 0, 0]), int(label)) for image, label in zip(train.images, train.labels, strict=True)}
    assert pairs == {(10, 3), (20, 5), (30, 9)}
    assert len(test) == 2
    assert train.classes == CLASSES


def test_the_folder_of_the_parquet_files_itself_will_do(shards):
    assert load("cifar10", shards / "cifar10")[0].fingerprint == load("cifar10", shards)[0].fingerprint


def test_cifar10_rows_stand_in_an_order_of_their_own(shards, tmp_path):
    """Copies that differ in row order give the same runs."""
    other = tmp_path / "other"
    write_parquet(other / "train-00000-of-00001.parquet", [30, 20, 10], [9, 5, 3])
    write_parquet(other / "test-00000-of-00001.parquet", [50, 40], [1, 0])
    for one, two in zip(load("cifar10", shards), load("cifar10", other), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


def test_parquet_is_decoded_once(shards, monkeypatch):
    first = load("cifar10", shards)
    forbid_decoding(monkeypatch)
    second = load("cifar10", shards)
    assert [part.fingerprint for part in first] == [part.fingerprint for part in second]


def test_data_that_differs_from_the_published_is_named_as_such(shards):
    assert CIFAR10().provenance(*load("cifar10", shards)) == "differs from the published data"


def test_a_truncated_parquet_file_is_named(shards):
    file = shards / "cifar10/train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: cannot be read.*fetch it again"):
        load("cifar10", shards)


def test_a_missing_shard_is_counted(shards):
    (shards / "cifar10/train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"expected 2 files like train-00000-of-00002\.parquet, found 1; fetch"):
        load("cifar10", shards)


def test_a_missing_part_is_named(shards):
    (shards / "cifar10/test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"no test-\*\.parquet"):
        load("cifar10", shards)


@pytest.mark.parametrize("label", [10, -1, None])
def test_a_label_outside_the_classes_is_named_with_its_row(shards, label):
    write_parquet(shards / "cifar10/train-00001-of-00002.parquet", [30, 31], [2, label])
    with pytest.raises(DataError, match=rf"00001-of-00002\.parquet, row 1: expected a label from 0 to 9, got {label}"):
        load("cifar10", shards)


def test_a_parquet_file_without_the_image_column_is_refused(shards):
    write_parquet(shards / "cifar10/train-00001-of-00002.parquet", [30], [2], column="picture")
    with pytest.raises(DataError, match="with the columns img and label"):
        load("cifar10", shards)


def test_a_damaged_image_in_a_parquet_file_is_named_with_its_row(shards):
    write_parquet(shards / "cifar10/train-00001-of-00002.parquet", [1, b"no picture"], [1, 2])
    with pytest.raises(DataError, match=r"00001-of-00002\.parquet, row 1: not an image file"):
        load("cifar10", shards)


def test_an_image_of_another_size_is_named_with_its_row(shards):
    write_parquet(shards / "cifar10/train-00001-of-00002.parquet", [1, encoded(picture(2, (32, 31)))], [1, 2])
    with pytest.raises(DataError, match=r"00002\.parquet, row 1: expected 32 x 32 pixels .*got 32 x 31; fetch"):
        load("cifar10", shards)


def test_rows_keep_their_order_over_the_blocks_in_which_they_are_read_and_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("nab.data.parquet.ROWS", 7)
    monkeypatch.setattr("nab.data.decode.BLOCK", 10)
    monkeypatch.setattr("nab.data.decode.PART", 3)
    files = [
        write_parquet(tmp_path / "train-0.parquet", list(range(25)), [value % 2 for value in range(25)]),
        write_parquet(tmp_path / "train-1.parquet", list(range(25, 40)), [value % 2 for value in range(25, 40)]),
    ]
    dataset = read_parquet(files, "img", ("even", "odd"), "numbers")
    assert dataset.images[:, 0, 0, 0].tolist() == list(range(40))
    assert dataset.labels.tolist() == [0, 1] * 20


def test_a_parquet_file_without_rows_is_refused(shards):
    file = shards / "cifar10/test-00000-of-00001.parquet"
    no_images = pa.array([], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"img": no_images, "label": pa.array([], pa.int64())}), file)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet|cifar10"):
        load("cifar10", shards)


def test_a_parquet_column_that_holds_no_images_is_refused(shards):
    file = shards / "cifar10/test-00000-of-00001.parquet"
    pq.write_table(pa.table({"img": [1, 2], "label": [0, 1]}), file)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet"):
        load("cifar10", shards)


# torchvision's folder.


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, *, can_download: bool) -> list[str]:
    """A stand-in for `torchvision.datasets.CIFAR10`; returns the list of what was asked of it."""
    asked: list[str] = []

    class CIFAR10:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root, train: bool = True, download: bool = False) -> None:
            folder = Path(root) / self.base_folder
            asked.append("download" if download else f"read {'train' if train else 'test'}")
            if download:
                if not can_download:
                    raise RuntimeError("no network\nand a second line")
                folder.mkdir(parents=True)
                for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
                    (folder / name).write_text("made up")
            self.data = np.full((2, 32, 32, 3), 60 if train else 70, dtype=np.uint8)
            self.targets = [4, 6]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    return asked


def test_torchvisions_folder_is_read_and_cached_and_downloaded_only_once(tmp_path, monkeypatch):
    asked = fake_torchvision(monkeypatch, can_download=True)
    train, test = load("cifar10", tmp_path)
    assert asked == ["download", "read train", "read test"]
    assert train.images.shape == (2, 3, 32, 32)
    assert train.images.unique().tolist() == [60]
    assert test.images.unique().tolist() == [70]
    assert sorted(train.labels.tolist()) == [4, 6]
    load("cifar10", tmp_path)
    assert asked == ["download", "read train", "read test"]


def test_a_download_that_fails_says_why_in_one_line_and_what_to_do(tmp_path, monkeypatch):
    fake_torchvision(monkeypatch, can_download=False)
    with pytest.raises(DataError) as caught:
        load("cifar10", tmp_path)
    assert "(no network)" in str(caught.value)
    assert "--data-root" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_is_preferred_to_torchvisions_folder(shards, monkeypatch):
    asked = fake_torchvision(monkeypatch, can_download=True)
    load("cifar10", shards)
    assert asked == []


# The real CIFAR-10.


@pytest.fixture(scope="session")
def cifar10_cache(tmp_path_factory) -> Path:
    """A cache folder that the first of the tests below fills and the others use."""
    return tmp_path_factory.mktemp("cifar10-cache")


@pytest.mark.cifar10
def test_cifar10_is_the_published_data(cifar10_cache, monkeypatch):
    monkeypatch.setenv("NAB_CACHE", str(cifar10_cache))
    train, test = load("cifar10", CIFAR10_ROOT)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.labels.bincount().tolist() == [5_000] * 10
    parts = {"train": train, "test": test}
    assert {name: part.replace(labels=part.labels).fingerprint for name, part in parts.items()} == FINGERPRINTS
    assert CIFAR10().provenance(train, test) == "published"


@pytest.mark.cifar10
def test_the_second_start_with_cifar10_takes_under_a_second(cifar10_cache, monkeypatch):
    monkeypatch.setenv("NAB_CACHE", str(cifar10_cache))
    load("cifar10", CIFAR10_ROOT)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        train, _ = load("cifar10", CIFAR10_ROOT)
        assert int(train.images[-1].sum()) > 0, "the pixels are really there"
        assert train.fingerprint == FINGERPRINTS["train"]
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
