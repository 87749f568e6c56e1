"""Where datasets come from: digits, folders, parquet, torchvision, other people's objects; and the cache."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CIFAR10_ROOT
from PIL import Image

from nab.data import SOURCES, from_torch, load, provenance
from nab.data.cifar10 import CLASSES, FINGERPRINTS
from nab.data.decode import decode_image
from nab.data.folder import image_files, read_folder
from nab.errors import ConfigError, DataError


def picture(value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, value, value))


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    picture(value, size).save(buffer, "PNG")
    return buffer.getvalue()


def save(root: Path, name: str, value: int, **how) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(value, **how).save(file)
    return file


@pytest.fixture
def forbid_decoding(monkeypatch: pytest.MonkeyPatch):
    """Once called, decoding an image is a failure."""

    def forbid() -> None:
        def fail(*_):
            raise AssertionError("an image was decoded again")

        monkeypatch.setattr("nab.data.folder.decode_image", fail)
        monkeypatch.setattr("nab.data.parquet.decode_image", fail)

    return forbid


# By name.


def test_an_unknown_dataset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown dataset 'digit'.*cifar10, digits, folder; did you mean 'digits'"):
        load("digit")


def test_every_source_says_what_it_is():
    for source in SOURCES.values():
        assert source.summary
        assert source.source


def test_digits_are_split_once_and_for_all(digits):
    train, test = digits
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.shape[1:] == (3, 32, 32)
    assert train.labels.unique().tolist() == list(range(10))
    assert load("digits")[0].fingerprint == train.fingerprint
    rows = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images), "a test image is in the training part"


def test_digits_are_the_bundled_ones_enlarged(digits):
    """The mean brightness of the 8 x 8 originals survives (16 levels on the scale of 255)."""
    from sklearn.datasets import load_digits

    whole = torch.cat([part.images for part in digits]).float()
    assert abs(float(whole.mean()) - load_digits().images.mean() * 255 / 16) < 1
    assert torch.equal(whole[:, 0], whole[:, 1])


# Folders.


def test_a_folder_of_classes_gives_rows_in_the_order_of_their_paths(tmp_path):
    save(tmp_path, "dogs/b.png", 20)
    save(tmp_path, "dogs/a.png", 10)
    save(tmp_path, "cats/deep/c.jpg", 30)
    (tmp_path / "dogs/notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("cats", "dogs")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    files, _ = image_files(tmp_path)
    assert [file.name for file, _ in files] == ["c.jpg", "a.png", "b.png"]


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    for name, value in (("train/a/1.png", 1), ("train/b/2.png", 2), ("test/a/3.png", 3), ("test/b/4.png", 4)):
        save(tmp_path, name, value)
    train, test = load("folder", tmp_path)
    assert train.images[:, 0, 0, 0].tolist() == [1, 2]
    assert test.images[:, 0, 0, 0].tolist() == [3, 4]


def test_a_folder_without_train_and_test_is_split_by_class(tmp_path):
    for number in range(10):
        save(tmp_path, f"a/{number}.png", number)
        save(tmp_path, f"b/{number}.png", 100 + number)
    train, test = load("folder", tmp_path)
    assert train.labels.bincount().tolist() == [8, 8]
    assert test.labels.bincount().tolist() == [2, 2]
    values = [*train.images[:, 0, 0, 0].tolist(), *test.images[:, 0, 0, 0].tolist()]
    assert sorted(values) == [*range(10), *range(100, 110)]


def test_a_grey_folder_stays_grey_and_a_mixed_one_becomes_colour(tmp_path):
    save(tmp_path / "grey", "a/1.png", 7, mode="L")
    save(tmp_path / "grey", "b/2.png", 9, mode="L")
    assert read_folder(tmp_path / "grey").images.shape == (2, 1, 8, 8)
    save(tmp_path / "mixed", "a/1.png", 7, mode="L")
    save(tmp_path / "mixed", "b/2.png", 9)
    mixed = read_folder(tmp_path / "mixed").images
    assert mixed.shape == (2, 3, 8, 8)
    assert mixed[0].unique().tolist() == [7]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "at least two class folders, found none"),
        (["a/1.png"], "at least two class folders, found only 'a'"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"], "different classes: a, b and a, c"),
    ],
)
def test_a_folder_without_the_right_classes_says_what_it_found(tmp_path, names, told):
    for name in names:
        save(tmp_path, name, 0)
    with pytest.raises(DataError, match=told):
        load("folder", tmp_path)


def test_an_empty_class_is_named(tmp_path):
    save(tmp_path, "a/1.png", 0)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"b: no images .*\.png.* for class 'b'"):
        load("folder", tmp_path)


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path):
    save(tmp_path, "a/1.png", 0, size=(8, 6))
    save(tmp_path, "b/2.png", 0, size=(9, 6))
    with pytest.raises(DataError, match=r"2\.png: expected 8 x 6 pixels like 1\.png, got 9 x 6; resize"):
        read_folder(tmp_path)


def test_train_and_test_images_of_different_sizes_are_refused(tmp_path):
    for name, size in (("train/a/1.png", 8), ("train/b/1.png", 8), ("test/a/1.png", 9), ("test/b/1.png", 9)):
        save(tmp_path, name, 0, size=(size, size))
    with pytest.raises(DataError, match="different sizes"):
        load("folder", tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    save(tmp_path, "a/1.png", 0)
    whole = save(tmp_path, "b/2.png", 5, size=(64, 64)).read_bytes()
    (tmp_path / "b/2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b/2\.png: damaged image file .*fetch it again"):
        read_folder(tmp_path)


def test_a_folder_must_be_named_and_exist(tmp_path):
    with pytest.raises(DataError, match="--data-root"):
        load("folder")
    with pytest.raises(DataError, match="nowhere does not exist"):
        load("folder", tmp_path / "nowhere")


def test_the_environment_names_the_data_folder(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png"):
        save(tmp_path, name, 1)
    monkeypatch.setenv("NAB_DATA", str(tmp_path))
    assert load("folder")[0].classes == ("a", "b")


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1"])
def test_other_kinds_of_image_files_become_colour(mode):
    buffer = io.BytesIO()
    source = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    source.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert decode_image(buffer.getvalue(), "here").tolist() == torch.full((3, 4, 4), 255).tolist()


def test_a_pixel_is_read_where_it_stands():
    array = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    image = decode_image(buffer.getvalue(), "here")
    assert image.shape == (3, 4, 5)
    assert int(image[2, 3, 1]) == array[3, 1, 2]


# The cache.


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "images", "a/1.png", 1)
    save(tmp_path / "images", "b/2.png", 2)
    return tmp_path / "images"


def test_the_second_load_decodes_nothing(folder, cache_folder, forbid_decoding):
    first = read_folder(folder)
    assert len(list(cache_folder.rglob("*.safetensors"))) == 1
    forbid_decoding()
    second = read_folder(folder)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert (first.classes, first.name) == (second.classes, second.name)
    assert second.fingerprint == first.fingerprint == second.replace().fingerprint


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
def test_a_damaged_cache_file_is_decoded_again_and_mended(folder, cache_folder, damage, forbid_decoding):
    first = read_folder(folder)
    (file,) = cache_folder.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\xff" * 300}[damage])
    assert torch.equal(read_folder(folder).images, first.images)
    forbid_decoding()
    assert torch.equal(read_folder(folder).images, first.images)


def test_folders_that_hold_equal_files_do_not_share_a_cache_file(folder, tmp_path):
    read_folder(folder)
    save(tmp_path / "others", "a/1.png", 1)
    save(tmp_path / "others", "b/2.png", 90)
    assert read_folder(tmp_path / "others").images[1].unique().tolist() == [90]


# Parquet.


def write_parquet(file: Path, values: list[int], labels: list, column: str = "img") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(value, (32, 32)), "path": f"{value}.png"} for value in values]
    pq.write_table(pa.table({column: cells, "label": labels}), file)
    return file


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


def test_parquet_is_decoded_once(shards, forbid_decoding):
    first = load("cifar10", shards)
    forbid_decoding()
    second = load("cifar10", shards)
    assert [part.fingerprint for part in first] == [part.fingerprint for part in second]


def test_data_that_differs_from_the_published_is_named_as_such(shards, digits):
    assert provenance("cifar10", *load("cifar10", shards)) == "differs from the published data"
    assert provenance("digits", *digits) == "no published fingerprint"


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
    cells = [{"bytes": png(1, (32, 32)), "path": ""}, {"bytes": b"no picture", "path": ""}]
    file = shards / "cifar10/train-00001-of-00002.parquet"
    pq.write_table(pa.table({"img": cells, "label": [1, 2]}), file)
    with pytest.raises(DataError, match=r"00001-of-00002\.parquet, row 1: not an image file"):
        load("cifar10", shards)


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


# Other people's objects.


class Items:
    """A torch map-style dataset of given items."""

    def __init__(self, items: list, classes: list[str] | None = None) -> None:
        self._items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int):
        return self._items[index]


@pytest.mark.parametrize(
    "image",
    [
        picture(51),
        np.full((8, 8, 3), 51, dtype=np.uint8),
        torch.full((3, 8, 8), 51, dtype=torch.uint8),
        torch.full((3, 8, 8), 0.2),
        np.full((8, 8, 3), 0.2, dtype=np.float32),
    ],
    ids=["PIL", "uint8 array", "uint8 tensor", "float tensor", "float array"],
)
def test_any_kind_of_image_item_becomes_the_same_uint8(image):
    dataset = from_torch(Items([(image, 0), (image, 1)]))
    assert dataset.images.shape == (2, 3, 8, 8)
    assert dataset.images.unique().tolist() == [51]
    assert dataset.classes == ("0", "1")
    assert dataset.name == "items"


@pytest.mark.parametrize(
    "image",
    [
        picture(51, mode="L"),
        np.full((8, 8), 51, dtype=np.uint8),
        torch.full((8, 8), 51, dtype=torch.uint8),
        torch.full((1, 8, 8), 0.2),
    ],
    ids=["PIL", "array", "tensor", "float"],
)
def test_grey_items_keep_one_channel(image):
    dataset = from_torch(Items([(image, 0), (image, 1)]), name="grey")
    assert dataset.images.shape == (2, 1, 8, 8)
    assert dataset.images.unique().tolist() == [51]


def test_class_names_come_from_the_caller_the_source_or_the_labels():
    items = [(picture(0), torch.tensor(0)), (picture(1), np.int64(1))]
    assert from_torch(Items(items, ["cat", "dog"])).classes == ("cat", "dog")
    assert from_torch(Items(items, ["cat", "dog"]), classes=("x", "y")).classes == ("x", "y")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (
            [(torch.full((3, 8, 8), 2.0), 0)],
            "image 0 as uint8 or as float in .0, 1., got torch.float32 from 2 to 2; leave the normal",
        ),
        ([(torch.zeros(3, 8, 8, dtype=torch.int64), 0)], "image 0 as uint8 or as float.*torch.int64"),
        ([(picture(0), 0), (picture(0, (9, 8)), 1)], "one size, got 3 x 8 x 8 and 3 x 8 x 9; resize"),
        ([], "at least one image in 'items', got none"),
        ([(picture(0), 0), (picture(1), 0)], "at least two classes in 'items', got 1"),
    ],
    ids=["not in 0 to 1", "integers", "sizes", "empty", "one class"],
)
def test_items_that_cannot_be_used_are_named(items, told):
    with pytest.raises(DataError, match=told):
        from_torch(Items(items))


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
    found = {"train": train.replace().fingerprint, "test": test.replace().fingerprint}
    assert found == FINGERPRINTS
    assert provenance("cifar10", train, test) == "published"


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
