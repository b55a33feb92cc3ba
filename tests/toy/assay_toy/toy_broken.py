"""A study whose experiments break, each in its own way, and one that does not."""

import os
import time
from dataclasses import dataclass

import numpy as np

from assay.evidence import Claim, Experiment, Measurements, Study, at_most


@dataclass(frozen=True)
class Nothing:
    pass


def raises(settings: Nothing, rng: np.random.Generator) -> Measurements:
    raise RuntimeError("this trial raises")


def returns_nan(settings: Nothing, rng: np.random.Generator) -> Measurements:
    return {"value": float("nan")}


def returns_something_else(settings: Nothing, rng: np.random.Generator) -> Measurements:
    return {"valve": 1.0}


def exits(settings: Nothing, rng: np.random.Generator) -> Measurements:
    raise SystemExit(0)


def kills_itself(settings: Nothing, rng: np.random.Generator) -> Measurements:
    os.kill(os.getpid(), 9)
    return {"value": 0.0}


def hangs(settings: Nothing, rng: np.random.Generator) -> Measurements:
    time.sleep(3600)
    return {"value": 0.0}


def exhausts_memory(settings: Nothing, rng: np.random.Generator) -> Measurements:
    return {"value": float(len([np.empty(2**27) for _ in range(2**10)]))}


def works(settings: Nothing, rng: np.random.Generator) -> Measurements:
    print("noise that must not reach anyone")
    return {"value": 0.0}


STUDY = Study(
    "toy_broken",
    tuple(
        Experiment(
            trial.__name__,
            trial,
            {"quick": Nothing()},
            (Claim("small", "returns a value of at most one", at_most("value", 1.0)),),
        )
        for trial in (
            raises,
            returns_nan,
            returns_something_else,
            exits,
            kills_itself,
            hangs,
            exhausts_memory,
            works,
        )
    ),
)
