"""A study that runs in no time: a coin, with claims of every verdict."""

import time
from dataclasses import dataclass

import numpy as np

from assay.evidence import Claim, Experiment, Measurements, Published, Study, at_least, at_most, better


@dataclass(frozen=True)
class Coin:
    tosses: int = 10
    seconds: float = 0.0


def coin(settings: Coin, rng: np.random.Generator) -> Measurements:
    time.sleep(settings.seconds)
    tosses = rng.random(settings.tosses)
    return {
        "tosses": tosses.tolist(),
        "mean": float(tosses.mean()),
        "first": float(tosses[0]),
        "applies": 1.0 if tosses[0] < 0.5 else None,
    }


def arithmetic(settings: Coin, rng: np.random.Generator) -> Measurements:
    return {"two": 1.0 + 1.0, "three": 3.0}


def figure(rows):
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4))
    drawing.subplots().plot([row["mean"] for row in rows], "o")
    return drawing


STUDY = Study(
    "toy",
    (
        Experiment(
            "coin",
            coin,
            {"quick": Coin(), "large": Coin(tosses=1000)},
            (
                Claim(
                    "mean_below_two",
                    "tosses numbers whose mean is below two",
                    at_most("mean", 2.0),
                    Published("0.5", "table 1"),
                ),
                Claim("mean_above_two", "tosses numbers whose mean is above two", at_least("mean", 2.0)),
                Claim("sometimes", "answers only some of the time", at_least("applies", 0.5)),
            ),
            figure=figure,
        ),
        Experiment(
            "arithmetic",
            arithmetic,
            {"quick": Coin()},
            (
                Claim(
                    "two_is_less",
                    "knows that two is less than three",
                    better("two", than="three", lower=True),
                ),
            ),
            deterministic=True,
        ),
    ),
)
