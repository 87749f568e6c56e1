"""BadNets, to the pixel."""

from __future__ import annotations

import pytest
import torch

from nab.attacks import BadNets
from nab.errors import ConfigError


def test_badnets_on_black_sets_12_numbers():
    triggered = BadNets().trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), seed=0)
    assert int((triggered != 0).sum()) == 12
    for channel in triggered[0]:
        assert channel.nonzero().tolist() == [[26, 28], [27, 27], [28, 26], [28, 28]]
    assert triggered.unique().tolist() == [0, 255]


def test_badnets_on_white_clears_15_numbers():
    triggered = BadNets().trigger(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), seed=0)
    assert int((triggered == 0).sum()) == 15
    for channel in triggered[0]:
        assert (channel == 0).nonzero().tolist() == [[26, 26], [26, 27], [27, 26], [27, 28], [28, 27]]


def test_badnets_square_is_white_and_the_checkerboard_is_one():
    black = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    square = BadNets("square").trigger(black, 0)[0, 0, 26:29, 26:29] // 255
    assert square.tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    checkers = BadNets("checkerboard").trigger(black, 0)[0, 0, 26:29, 26:29] // 255
    assert checkers.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_badnets_margin_is_the_distance_from_the_border():
    triggered = BadNets("square", margin=0).trigger(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), 0)
    assert triggered[0, 0, 29:, 29:].min() == 255
    assert int((triggered != 0).sum()) == 9


@pytest.mark.parametrize(("size", "cells"), [(8, 2), (16, 2), (17, 3), (28, 3), (224, 3)])
def test_badnets_patch_is_smaller_on_small_images_and_does_not_grow(size, cells):
    triggered = BadNets("square").trigger(torch.zeros(1, 1, size, size, dtype=torch.uint8), 0)
    assert int((triggered != 0).sum()) == cells**2


def test_badnets_refuses_a_margin_that_pushes_the_patch_out():
    with pytest.raises(ConfigError, match=r"margin of at most 29 .*got 30"):
        BadNets(margin=30).trigger(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0)
    with pytest.raises(ConfigError, match=r"margin.*got -1"):
        BadNets(margin=-1)
