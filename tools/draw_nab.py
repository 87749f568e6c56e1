"""Draw the README's picture, book/images/nab.png, from two stored runs and the data.

python tools/draw_nab.py [--profile laptop] [--data-root DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nab
from nab.experiments import ResultStore, attack_data, make_trainer
from nab.report import figures

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    profile = nab.load_profile(arguments.profile)
    store = ResultStore(ROOT / "results", profile.name)
    configs = [profile.config(attack="badnets", defense=defense) for defense in ("none", "nab")]
    undefended, defended = (store.read(config) for config in configs)
    if undefended is None or defended is None:
        raise SystemExit(f"run `nab run --profile {profile.name} --attack badnets` with --defense none and nab first")
    data = attack_data(configs[1], make_trainer(configs[1]), arguments.data_root)
    defense = configs[1].make_defense()
    assert isinstance(defense, nab.NAB)
    normalization = data.test.normalization
    figures.use_style()
    figure = figures.predictions(
        data, undefended, defended, seen=lambda images: figures.stamped_pixels(images, defense.stamp, normalization)
    )
    figure.savefig(ROOT / "book" / "images" / "nab.png", dpi=110)


if __name__ == "__main__":
    main()
