"""The cache of decoded data."""

from __future__ import annotations

import os

import pytest
import torch
from pictures import forbid_decoding, save

from nab.data import IDENTITY
from nab.data.folder import read_folder
from nab.errors import DataError


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "images", "a/1.png", 1)
    save(tmp_path / "images", "b/2.png", 2)
    return tmp_path / "images"


def test_the_second_load_decodes_nothing(folder, cache_folder, monkeypatch):
    first = read_folder(folder)
    assert len(list(cache_folder.rglob("*.safetensors"))) == 1
    forbid_decoding(monkeypatch)
    second = read_folder(folder)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert (first.classes, first.name) == (second.classes, second.name)
    assert second.fingerprint == first.fingerprint == second.replace(images=second.images).fingerprint


def test_a_changed_file_is_decoded_again(folder):
    read_folder(folder)
    save(folder, "b/2.png", 200)
    os.utime(folder / "b/2.png", ns=(1, 1))
    assert read_folder(folder).images[1].unique().tolist() == [200]


def test_a_new_file_is_seen(folder):
    read_folder(folder)
    save(folder, "b/3.png", 3)
    assert len(read_folder(folder)) == 3


@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_a_damaged_cache_file_is_decoded_again_and_mended(folder, cache_folder, damage, monkeypatch):
    first = read_folder(folder)
    (file,) = cache_folder.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\xff" * 300}[damage])
    assert torch.equal(read_folder(folder).images, first.images)
    forbid_decoding(monkeypatch)
    assert torch.equal(read_folder(folder).images, first.images)


def test_a_cache_file_whose_numbers_are_no_dataset_is_decoded_again(folder, cache_folder):
    first = read_folder(folder)
    (file,) = cache_folder.rglob("*.safetensors")
    content = file.read_bytes()
    labels = first.labels.numpy().tobytes()
    file.write_bytes(content.replace(labels, b"\x7f" * len(labels)))
    assert torch.equal(read_folder(folder).labels, first.labels)


def test_a_cached_dataset_is_not_hashed_again(folder, monkeypatch):
    first = read_folder(folder).fingerprint

    def fail(*_):
        raise AssertionError("the rows were hashed again")

    monkeypatch.setattr("nab.data.dataset.row_digests", fail)
    train = read_folder(folder)
    assert train.fingerprint == train.replace(normalization=IDENTITY, name="other").fingerprint == first


def test_a_cache_that_cannot_be_written_costs_time_only(folder, cache_folder, caplog):
    (cache_folder / "data").write_text("a file in place of the folder")
    assert len(read_folder(folder)) == 2
    assert "cannot be written" in caplog.text


def test_a_file_that_vanishes_is_named(folder):
    (folder / "b/3.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(DataError, match=r"b/3\.png: cannot be read \(No such file"):
        read_folder(folder)


def test_folders_that_hold_equal_files_do_not_share_a_cache_file(folder, tmp_path):
    read_folder(folder)
    save(tmp_path / "others", "a/1.png", 1)
    save(tmp_path / "others", "b/2.png", 90)
    assert read_folder(tmp_path / "others").images[1].unique().tolist() == [90]
