"""What a paper claims and the trial that tests it: `Study`, `Experiment`, `Claim`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.evidence.predicates import Measurements, Predicate

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

Trial = Callable[[Any, "np.random.Generator"], Measurements]
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{kind} {name!r}: a name is lower-case letters, digits and underscores")


@dataclass(frozen=True)
class Published:
    """The figure in the paper that a claim is held against, and where in the paper it stands."""

    value: str
    where: str


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper as a question that a single trial answers yes or no.

    `name` identifies it within its experiment, `sentence` completes "the paper claims that the method …",
    `asks` is the predicate over the trial's measurements.
    """

    name: str
    sentence: str
    asks: Predicate
    published: Published | None = None

    def __post_init__(self) -> None:
        _check_name("claim", self.name)


@dataclass(frozen=True)
class Experiment:
    """Data and one function: a trial, the sizes at which it can run, and the claims that it answers.

    `trial(settings, rng)` is a module-level function that draws everything from `rng`, pairs all compared
    methods (same data, same initial weights, same budget) and returns its measurements by name.
    `scales` maps a scale's name to a frozen dataclass that holds every size the trial depends on; the first
    is the default and is called "quick": at most 10 s on one core and 2 GB. `deterministic` says that the
    trial draws nothing, so that one is enough; `exclusive` that it times something, so that nothing else
    may run beside it. `figure` turns the measurements of the finished trials into a matplotlib Figure.
    """

    name: str
    trial: Trial
    scales: Mapping[str, Any]
    claims: tuple[Claim, ...]
    figure: Callable[[Sequence[Measurements]], Figure] | None = None
    deterministic: bool = False
    exclusive: bool = False

    def __post_init__(self) -> None:
        _check_name("experiment", self.name)
        if not self.claims:
            raise ValueError(f"experiment {self.name!r} has no claims")
        names = [claim.name for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"experiment {self.name!r} has two claims of one name: {', '.join(names)}")
        if next(iter(self.scales), None) != "quick":
            raise ValueError(f"experiment {self.name!r}: the first of its scales must be 'quick'")
        for scale, settings in self.scales.items():
            if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
                raise ValueError(
                    f"experiment {self.name!r}, scale {scale!r}: settings must be a dataclass instance"
                )


@dataclass(frozen=True)
class Study:
    """The experiments that put one paper to the test; `slug` is the paper's name everywhere."""

    slug: str
    experiments: tuple[Experiment, ...]

    def __post_init__(self) -> None:
        _check_name("study", self.slug)
        names = [experiment.name for experiment in self.experiments]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"study {self.slug!r} needs experiments, each of a name of its own; got {names}")

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name; KeyError names those there are."""
        for experiment in self.experiments:
            if experiment.name == name:
                return experiment
        known = ", ".join(experiment.name for experiment in self.experiments)
        raise KeyError(f"study {self.slug!r} has no experiment {name!r}; it has {known}")


def seed_sequence(slug: str, experiment: str, index: int) -> np.random.SeedSequence:
    """The one source of randomness of trial `index`: fixed by the names alone, so nobody chose it."""
    import numpy as np

    digest = hashlib.sha256(f"{slug}/{experiment}".encode()).digest()
    return np.random.SeedSequence([int.from_bytes(digest[:16], "big"), index])


def trial_generator(slug: str, experiment: str, index: int) -> np.random.Generator:
    """The generator that trial `index` of an experiment draws from, to run one by hand.

    >>> first, again = (trial_generator("colide", "unequal_noise", 0) for _ in range(2))
    >>> first.random() == again.random()
    True
    """
    import numpy as np

    return np.random.default_rng(seed_sequence(slug, experiment, index))
