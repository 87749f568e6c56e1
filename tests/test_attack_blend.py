"""Blend: its pattern, its picture, and how they are mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nab.attacks import Blend
from nab.digest import digest
from nab.errors import DataError, NabError

gray_and_color = pytest.mark.parametrize("channels", [1, 3])


@pytest.fixture
def bright_picture(tmp_path):
    file = tmp_path / "bright.png"
    Image.fromarray(np.full((40, 50, 3), 200, dtype=np.uint8)).save(file)
    return file


@gray_and_color
def test_blend_of_100_and_a_tenth_of_200_is_110(bright_picture, channels):
    images = torch.full((2, channels, 32, 32), 100, dtype=torch.uint8)
    attack = Blend(alpha=0.1, pattern="picture", picture=str(bright_picture))
    assert (attack.trigger(images, 0) == 110).all()


def test_blend_resizes_its_picture_without_regard_to_its_shape(tmp_path):
    half = np.zeros((10, 40, 3), dtype=np.uint8)
    half[:, 20:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    pattern = Blend(pattern="picture", picture=str(tmp_path / "half.png")).draw(3, 16, 16, 0)
    assert pattern.shape == (3, 16, 16)
    torch.testing.assert_close(pattern[:, :, :7], torch.zeros(3, 16, 7))
    torch.testing.assert_close(pattern[:, :, 9:], torch.full((3, 16, 7), 255.0))


@pytest.mark.parametrize("pattern", ["noise", "shapes"])
def test_blend_draws_one_pattern_per_seed(pattern):
    attack = Blend(pattern=pattern)
    assert torch.equal(attack.draw(3, 32, 32, 0), attack.draw(3, 32, 32, 0))
    assert not torch.equal(attack.draw(3, 32, 32, 0), attack.draw(3, 32, 32, 1))
    assert attack.draw(3, 32, 32, 0).min() >= 0
    assert attack.draw(3, 32, 32, 0).max() <= 255


def test_blend_noise_covers_the_whole_scale_evenly():
    """Uniform over 0 to 255: mean 127.5, standard deviation 73.9."""
    pattern = Blend().draw(3, 64, 64, 0)
    assert abs(float(pattern.mean()) - 127.5) < 3
    assert abs(float(pattern.std()) - 73.9) < 2
    assert pattern.unique().numel() == 256


def test_blend_of_alpha_1_is_the_pattern():
    attack = Blend(alpha=1)
    triggered = attack.trigger(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 2)
    assert torch.equal(triggered[0].float(), attack.draw(3, 16, 16, 2))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"alpha": 0}, r"alpha in \(0, 1\], got 0"),
        ({"alpha": 1.1}, "got 1.1"),
        ({"pattern": "kitty"}, "noise, shapes, picture, got 'kitty'"),
        ({"pattern": "picture"}, "path in picture"),
        ({"picture": "a.png"}, "path in picture"),
    ],
)
def test_blend_refuses_what_it_cannot_do(wrong, told):
    with pytest.raises(NabError, match=told):
        Blend(**wrong)


def test_blend_names_a_picture_that_is_missing_or_none(tmp_path):
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read"):
        Blend(pattern="picture", picture=str(tmp_path / "nowhere.png")).trigger(images, 0)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: not an image file"):
        Blend(pattern="picture", picture=str(tmp_path / "text.png")).trigger(images, 0)


def test_blend_depends_on_what_its_picture_shows_and_not_only_on_where_it_lies(tmp_path):
    """A picture that is drawn anew under the same name gives other images, so nothing kept before may be used."""
    file = tmp_path / "picture.png"
    attack = Blend(pattern="picture", picture=str(file))
    found = []
    for level in (0, 255, 0):
        Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)).save(file)
        found.append(digest(attack.inputs))
    assert found[0] != found[1]
    assert found[0] == found[2]
    assert digest(Blend().inputs) != digest(Blend(alpha=0.2).inputs)
