"""Folders of images, and the decoding of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, save
from PIL import Image

from nab.data import load
from nab.data.decode import decode_image
from nab.data.folder import image_files, read_folder
from nab.errors import DataError


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


def test_a_gray_folder_stays_gray_and_a_mixed_one_becomes_color(tmp_path):
    save(tmp_path / "gray", "a/1.png", 7, mode="L")
    save(tmp_path / "gray", "b/2.png", 9, mode="L")
    assert read_folder(tmp_path / "gray").images.shape == (2, 1, 8, 8)
    save(tmp_path / "mixed", "a/1.png", 7, mode="L")
    save(tmp_path / "mixed", "b/2.png", 9)
    save(tmp_path / "mixed", "b/3.png", 11, mode="L")
    mixed = read_folder(tmp_path / "mixed").images
    assert mixed.shape == (3, 3, 8, 8)
    assert [image.unique().tolist() for image in mixed] == [[7], [9], [11]]


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
    with pytest.raises(DataError, match=r"2\.png: expected 8 x 6 pixels as in .*1\.png, got 9 x 6; resize"):
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_a_file_cut_short_anywhere_is_refused_in_one_line(kind):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    for length in range(0, len(whole) * 3 // 4, 7):
        with pytest.raises(DataError, match=r"^here: "):
            decode_image(whole[:length], "here")


def test_an_image_that_claims_to_be_enormous_is_refused():
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = (200_000).to_bytes(4, "little") * 2  # width and height
    with pytest.raises(DataError, match=r"^here: damaged image file"):
        decode_image(bytes(content), "here")


def test_an_image_of_more_than_eight_bits_is_refused(tmp_path):
    """PIL would make white of everything above 255."""
    save(tmp_path, "a/1.png", 0)
    (tmp_path / "b").mkdir()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "b/2.png")
    with pytest.raises(DataError, match=r"2\.png: expected 8 bits per channel, got an image of mode I;16; convert"):
        read_folder(tmp_path)


def test_a_size_scales_every_image_to_a_square(tmp_path):
    save(tmp_path, "a/1.png", 10, size=(20, 30))
    save(tmp_path, "b/2.png", 20, size=(4, 4))
    for size in (8, 16):  # the second must not find what was cached for the first
        dataset = read_folder(tmp_path, size)
        assert dataset.images.shape == (2, 3, size, size)
        assert [image.unique().tolist() for image in dataset.images] == [[10], [20]]


def test_scaling_down_averages(tmp_path):
    """Half black, half white: antialiased, a column at the border is as gray as the share of white that it covers."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, 8:] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    row = read_folder(tmp_path, 8).images[0, 0, 4].tolist()
    assert row[:3] == [0, 0, 0]
    assert row[5:] == [255, 255, 255]
    assert row[3] + row[4] == 255


def test_every_row_knows_its_file(tmp_path):
    for number in range(10):
        save(tmp_path, f"a/{number}.png", number)
        save(tmp_path, f"b/{number}.png", 100 + number)
    for _ in range(2):  # decoded, and from the cache
        for part in load("folder", tmp_path, train_size=4):
            assert part.files is not None
            values = part.images[:, 0, 0, 0].tolist()
            names = [f"{'ab'[value // 100]}/{value % 100}.png" for value in values]
            assert [str(Path(file).relative_to(tmp_path)) for file in part.files] == names


def test_a_folder_can_be_a_parameter(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png"):
        save(tmp_path / "mine", name, 1)
    assert load("folder", tmp_path, folder=str(tmp_path / "mine"))[0].classes == ("a", "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("folder", folder="~/mine")[0].classes == ("a", "b")


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
def test_other_kinds_of_image_files_become_color(mode):
    source = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    file = encoded(source, "TIFF" if mode == "CMYK" else "PNG")
    assert decode_image(file, "here").tolist() == torch.full((3, 4, 4), 255).tolist()


def test_a_pixel_is_read_where_it_stands():
    array = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    image = decode_image(encoded(Image.fromarray(array)), "here")
    assert image.shape == (3, 4, 5)
    assert int(image[2, 3, 1]) == array[3, 1, 2]
