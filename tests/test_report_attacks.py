"""The attack chapter's tables and figures, from planted images and planted results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_dataset, result_of
from torch import Tensor

from nab.attacks import Attack, BadNets, Blend, Decoy, Poisoned, Triggered, poison, trigger_all
from nab.attacks.sig import SIG
from nab.data import IMAGENET, Dataset, GroundTruth
from nab.errors import ResultError
from nab.experiments import Attacked, RunResult, load_profile
from nab.report import attacks, figures
from nab.stamp import Stamp


def attacked(attack: Attack, seed: int = 0) -> Attacked:
    """A few noise images of 32 x 32 under an attack."""
    train, test = (random_dataset(40, size=32, seed=seed) for seed in (1, 2))
    settings: dict[str, Any] = {"target": 0, "seed": seed}
    return Attacked(
        train, train, test, poison(train, attack, rate=0.2, **settings), trigger_all(test, attack, **settings)
    )


def planted(clean: Tensor, triggered: Tensor) -> Attacked:
    """Test images before and after; in training the first image was poisoned in the same way."""
    labels = torch.arange(len(clean)) % 2
    test = Dataset(clean, labels, ("a", "b"), "planted")
    is_poisoned = torch.arange(len(clean)) == 0
    images = torch.where(is_poisoned[:, None, None, None], triggered, clean)
    handed = Poisoned(test.replace(images=images), GroundTruth(labels, is_poisoned))
    return Attacked(test, test, test, handed, Triggered(triggered, labels, torch.zeros_like(labels)))


def gray(level: int, count: int = 2) -> Tensor:
    return torch.full((count, 3, 16, 16), level, dtype=torch.uint8)


def run_at(rate: float, seed: int, asr: float, attack: str = "sig", **changes: Any) -> RunResult:
    config = load_profile("laptop").config(attack=attack, poison_rate=rate, seed=seed, **changes)
    return result_of(config, "laptop", attack_success_rate=asr)


# Visibility


def test_psnr_of_a_constant_change() -> None:
    """All pixels 16 levels off: 20 log10(255 / 16) = 24.05 dB; half of them: 3.01 dB more."""
    clean = gray(100)
    assert attacks.psnr(clean, gray(116)) == pytest.approx([20 * math.log10(255 / 16)] * 2)
    half = clean.clone()
    half[:, :, :8] = 116
    assert attacks.psnr(clean, half) == pytest.approx([20 * math.log10(255 / 16) + 10 * math.log10(2)] * 2)


def test_psnr_of_an_unchanged_image_is_infinite() -> None:
    assert attacks.psnr(gray(7), gray(7)) == [math.inf, math.inf]


def test_ssim_of_constant_images_is_the_brightness_term_alone() -> None:
    """(2 a b + c) / (a^2 + b^2 + c) with c = (0.01 * 255)^2; contrast and structure are c / c."""
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c) / (100**2 + 150**2 + c)
    assert attacks.ssim(gray(100), gray(150)) == pytest.approx([expected] * 2)
    assert attacks.ssim(gray(100), gray(100)) == pytest.approx([1.0] * 2)


def test_ssim_sees_a_patch_in_the_very_corner() -> None:
    patched = gray(100)
    patched[:, :, :3, :3] = 255
    assert max(attacks.ssim(gray(100), patched)) < 0.95


def test_ssim_is_not_defined_below_its_window() -> None:
    images = random_dataset(3).images  # 8 x 8
    assert all(math.isnan(value) for value in attacks.ssim(images, images))


def test_visibility_table_of_planted_images() -> None:
    clean, triggered = gray(100), gray(100)
    triggered[:, :, :8] = 116  # half of every image: 27.06 dB, 8 levels on average, 16 at most
    row = attacks.visibility_table({"planted": planted(clean, triggered)}).iloc[0]
    expected = {"attack": "planted", "images": "planted", "PSNR (dB)": "27.1", "mean change": "8.0", "largest": "16"}
    assert row[list(expected)].to_dict() == expected
    assert row["PSNR in training"] == "27.1"


def test_visibility_compares_poison_with_the_row_that_it_was_made_from() -> None:
    """Rows come shuffled. BadNets changes at most 9 of 1024 pixels, by 255: at least 10 log10(1024 / 9) = 20.6 dB;
    with another row of noise it would be about 7.7 dB."""
    row = attacks.visibility_table({"badnets": attacked(BadNets())}).iloc[0]
    assert float(row["PSNR in training"]) > 20.6


def test_visibility_leaves_blank_what_has_no_number() -> None:
    row = attacks.visibility_table({"nothing": planted(gray(9), gray(9))}).iloc[0]
    assert (row["PSNR (dB)"], row["SSIM"], row["largest"]) == ("", "1.000", "0")


def test_visibility_looks_at_the_first_images_alone() -> None:
    triggered = gray(100, count=4)
    triggered[2:] = 200
    assert attacks.visibility_table({"late": planted(gray(100, count=4), triggered)}, count=2)["largest"][0] == "0"


# Rates


def test_rate_table_has_a_row_per_rate_with_deviation_and_seeds() -> None:
    runs = [run_at(0.5, seed, asr) for seed, asr in enumerate((80.0, 84.0))] + [run_at(0.25, 0, 40.0)]
    runs += [run_at(0.1, 0, 99.0, "badnets")]
    table = attacks.rate_table(runs)
    assert table["attack"].tolist() == ["badnets", "sig", "sig"]
    assert table["poisoned"].tolist() == ["10 % of all", "25 % of the target class", "50 % of the target class"]
    assert table["ASR"].tolist() == ["99.0", "40.0", "82.0 ± 2.8"]  # sample deviation: sqrt(8)
    assert table["ACC"].tolist()[:2] == ["90.0", "90.0"]
    assert table["seeds"].tolist() == [1, 1, 2]
    assert set(table["images"]) == {"cifar10"}


def test_rate_table_tells_cover_rates_apart() -> None:
    runs = [
        run_at(0.05, 0, asr, "adap-patch", **{"attack.cover_rate": rate}) for rate, asr in ((0.02, 10.0), (0.1, 90.0))
    ]
    table = attacks.rate_table([*runs, run_at(0.1, 0, 99.0, "badnets")])
    assert table["covers"].tolist() == ["", "2 % of all", "10 % of all"]
    assert table["ASR"].tolist() == ["99.0", "10.0", "90.0"]


def test_rate_table_of_nothing_says_what_to_do() -> None:
    with pytest.raises(ResultError, match="nab run"):
        attacks.rate_table([])


def test_rate_table_leaves_defended_runs_out() -> None:
    table = attacks.rate_table([run_at(0.5, 0, 80.0), run_at(0.5, 0, 1.0, defense="nab")])
    assert table["ASR"].tolist() == ["80.0"]


def test_rate_figure_shows_swept_attacks_alone_and_clean_labels_apart() -> None:
    clean = [run_at(rate, seed, 100 * rate + seed) for rate in (0.25, 0.5) for seed in (0, 1)]
    dirty = [run_at(rate, 0, 90.0, "wanet") for rate in (0.01, 0.1)]
    others = [run_at(0.1, 0, 99.0, "badnets"), run_at(0.2, 0, 1.0, "badnets", defense="nab")]
    figure = figures.rate_figure([*clean, *dirty, *others])
    assert figure is not None
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert labels == ["poisoned share of the training set (%)", "poisoned share of the target class (%)"]
    legends = [ax.get_legend_handles_labels()[1] for ax in figure.axes]
    assert legends == [["wanet"], ["sig"]]
    line = figure.axes[1].get_lines()[0]
    assert np.asarray(line.get_xydata()).tolist() == [[25.0, 25.5], [50.0, 50.5]]


@pytest.mark.parametrize("runs", [[], [run_at(0.1, 0, 99.0, "badnets")]], ids=["no runs", "one rate"])
def test_rate_figure_of_no_sweep_is_none(runs: list[RunResult]) -> None:
    assert figures.rate_figure(runs) is None


# The gallery


SEEN = {"as NAB sees it": lambda images: figures.stamped_pixels(images, Stamp(), IMAGENET)}


def test_gallery_has_a_row_per_attack_and_a_column_for_covers() -> None:
    data = {"badnets": attacked(BadNets()), "nab-decoy": attacked(Decoy())}
    gallery = figures.attack_gallery(data, 3, SEEN)
    assert len(gallery.axes) == 12
    assert [ax.get_ylabel() for ax in gallery.axes if ax.get_ylabel()] == list(data)
    heads = [text.get_text() for ax in gallery.axes[:6] for text in ax.texts]
    assert heads == ["clean", "triggered", "difference", "as NAB sees it", "as poison", "as cover"]
    assert [len(ax.images) for ax in gallery.axes] == [1, 1, 1, 1, 1, 0] + [1] * 6  # BadNets has no covers


def test_gallery_tells_what_became_of_labels() -> None:
    """Classes are a to d, the target a: dirty labels become a, covers and clean labels stay."""
    data = {"nab-decoy": attacked(Decoy()), "sig": attacked(SIG())}
    gallery = figures.attack_gallery(data, 3, SEEN)
    titles = [ax.get_title() for ax in gallery.axes]
    assert titles[0] == "d"
    assert titles[4][0] in "bcd"
    assert titles[4].endswith("→ a")
    assert titles[5].endswith(", kept")
    assert titles[10] == "a, kept"


def test_gallery_without_covers_and_defenses_has_four_columns() -> None:
    gallery = figures.attack_gallery({"blend": attacked(Blend())}, 0)
    assert len(gallery.axes) == 4


def test_gallery_shows_the_triggered_test_image_and_what_a_defense_sees() -> None:
    data = attacked(BadNets())
    gallery = figures.attack_gallery({"badnets": data}, 5, SEEN)
    clean, triggered, _, stamped = (torch.as_tensor(ax.images[0].get_array()) for ax in gallery.axes[:4])
    assert torch.equal(clean.permute(2, 0, 1), data.test.images[5])
    assert torch.equal(triggered.permute(2, 0, 1), data.triggered.images[5])
    assert stamped[0, 0].tolist() == [124, 116, 104]  # the mean color of ImageNet


def test_magnified_difference_ends_at_white() -> None:
    clean, changed = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    changed[0, 0, 0], changed[1, 1, 1] = 150, 75
    view, factor = figures.magnified(clean, changed)
    assert factor == pytest.approx(5.1)  # 255 / 50
    assert float(view[0, 0, 0]) == pytest.approx(1.0)
    assert float(view[1, 1, 1]) == pytest.approx(0.5)
    assert figures.magnified(clean, clean)[1] == 255.0
