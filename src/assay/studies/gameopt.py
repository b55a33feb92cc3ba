"""GameOpt put to the test: what it finds, whether it rests at equilibria, and what it costs.

The paper searches protein landscapes; here random epistatic landscapes stand for them, a new one in every
trial, whose letters' embeddings every method knows. All methods of a trial start from the same points and
evaluate as many, and those with a surrogate have the same one. As in the paper its lengthscales are kept
after the fit to the initial points; where `refit` says so, they are fitted anew in every round. Values are in
standard deviations of the landscape above its mean.

Scales called "full" have the numbers of sites of the paper's proteins, four to 238, and its 50 rounds. The
methods that search the latent space of a trained generative model are left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    at_least,
    at_most,
    better,
    between,
    figures,
)
from assay.optimize.gameopt import EpistaticLandscape, GameOpt, Refit, Strategy, equilibrium_gap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LABELS = {
    "best_response": "GameOpt",
    "hedge": "GameOpt, Hedge",
    "ucb_enumerate": "GP-UCB by enumeration",
    "local_search": "local search of the UCB",
    "directed_evolution": "directed evolution",
    "ucb_random": "best UCB of 4000 random points",
    "random": "random points",
}
_BASELINES = ("local_search", "directed_evolution", "ucb_random", "random")
_METHODS = ("best_response", *_BASELINES)
_MARGINS = {"local_search": 0.0}  # the strongest; others are to be beaten by half a standard deviation


@dataclass(frozen=True)
class Search:
    """A landscape, and how long it is searched by which methods."""

    methods: tuple[str, ...]
    n_sites: int = 8
    n_letters: int = 20
    n_initial: int = 20
    batch_size: int = 5
    rounds: int = 20
    n_games: int = 10
    n_reference: int = 20_000
    refit: Refit = "once"


@dataclass(frozen=True)
class Growth:
    """Numbers of variables, and the data and games at each."""

    n_sites: tuple[int, ...] = (4, 8, 16, 32)
    n_letters: int = 20
    n_data: int = 120
    n_games: int = 10


@dataclass(frozen=True)
class Ask:
    """A proposal that is timed."""

    n_sites: int = 40
    n_letters: int = 20
    n_data: int = 200
    n_games: int = 10
    repeats: int = 3


# --- Trials --------------------------------------------------------------------------------------------


def _mutants(optimiser: GameOpt, n_letters: int, count: int, rng: np.random.Generator) -> Integers:
    """Random single-site mutants of the best point, distinct and not evaluated yet.

    Where they run out, those of the next best point follow.
    """
    seen = {tuple(point) for point in optimiser.points_.tolist()}
    found: list[Integers] = []
    for point in optimiser.points_[np.argsort(-optimiser.values_, kind="stable")]:
        for change in rng.permutation(point.size * n_letters):
            mutant = point.copy()
            mutant[change // n_letters] = change % n_letters
            if (key := tuple(mutant.tolist())) not in seen:
                seen.add(key)
                found.append(mutant)
                if len(found) == count:
                    return np.array(found)
    raise ValueError(f"only {len(found)} mutants of the points are left, fewer than {count}")


def _start(
    method: str, settings: Search, landscape: EpistaticLandscape, initial: Integers, rng: np.random.Generator
) -> GameOpt:
    # Directed evolution has proposals of its own and keeps its books here.
    strategy = "random" if method == "directed_evolution" else cast(Strategy, method)
    optimiser = GameOpt(
        landscape.n_choices,
        embeddings=landscape.embeddings,
        strategy=strategy,
        n_games=settings.n_games,
        batch_size=settings.batch_size,
        refit=settings.refit,
        random_state=rng,
    )
    return optimiser.tell(initial, landscape(initial))


def _draw(settings: Search, rng: np.random.Generator) -> tuple[EpistaticLandscape, Integers, Floats]:
    """A landscape, initial points, and the values of random points for reference."""
    landscape = EpistaticLandscape(settings.n_sites, settings.n_letters, seed=rng)
    initial, reference = (
        rng.integers(landscape.n_choices, size=(count, settings.n_sites))
        for count in (settings.n_initial, settings.n_reference)
    )
    return landscape, initial, landscape(reference)


def search(settings: Search, rng: np.random.Generator) -> Measurements:
    """The best value that each method has found: after the last round, and on average over the rounds."""
    landscape, initial, reference = _draw(settings, rng)
    measured: dict[str, float | None | Sequence[float]] = {}
    for method in settings.methods:
        optimiser = _start(method, settings, landscape, initial, rng)
        best = [optimiser.best_value_]
        for _ in range(settings.rounds):
            if method == "directed_evolution":
                batch = _mutants(optimiser, settings.n_letters, settings.batch_size, rng)
            else:
                batch = optimiser.ask()
            best.append(optimiser.tell(batch, landscape(batch)).best_value_)
        scores = (np.array(best) - reference.mean()) / reference.std()
        measured[f"final_{method}"] = float(scores[-1])
        measured[f"mean_{method}"] = float(scores[1:].mean())
        measured[f"scores_{method}"] = scores.tolist()
    return measured


def equilibria(settings: Search, rng: np.random.Generator) -> Measurements:
    """Gaps of the UCB where games end, and of the landscape where points were evaluated."""
    landscape, initial, reference = _draw(settings, rng)
    sd = float(reference.std())
    ucb_gaps, converged = [], []
    measured: dict[str, float | None | Sequence[float]] = {}
    for method in settings.methods:
        optimiser = _start(method, settings, landscape, initial, rng)
        for _ in range(settings.rounds):
            batch = optimiser.ask()
            for equilibrium in optimiser.equilibria_:
                payoff = optimiser.model_.upper_confidence_bound
                ucb_gaps.append(equilibrium_gap(payoff, equilibrium.point, landscape.n_choices) / sd)
                converged.append(equilibrium.converged)
            optimiser.tell(batch, landscape(batch))
        gaps = [equilibrium_gap(landscape, point, landscape.n_choices) / sd for point in optimiser.points_]
        measured[f"smallest_gap_{method}"] = float(min(gaps))
        measured[f"gap_of_best_{method}"] = float(gaps[optimiser.values_.argmax()])
    return {
        "largest_gap_of_ucb": float(max(ucb_gaps)),
        "share_converged": float(np.mean(converged)),
        **measured,
    }


def growth(settings: Growth, rng: np.random.Generator) -> Measurements:
    """Mean rounds and payoff rows of a game, and their slopes in the number of variables, both in logs."""
    rounds, rows = [], []
    for n_sites in settings.n_sites:
        landscape = EpistaticLandscape(n_sites, settings.n_letters, seed=rng)
        data = rng.integers(landscape.n_choices, size=(settings.n_data, n_sites))
        optimiser = GameOpt(
            landscape.n_choices,
            embeddings=landscape.embeddings,
            n_games=settings.n_games,
            random_state=rng,
        )
        optimiser.tell(data, landscape(data)).ask()
        rounds.append(float(np.mean([e.n_rounds for e in optimiser.equilibria_])))
        rows.append(float(np.mean([e.n_evaluations for e in optimiser.equilibria_])))
    logs = np.log(settings.n_sites)
    return {
        "slope_of_rows": float(np.polyfit(logs, np.log(rows), 1)[0]),
        "slope_of_rounds": float(np.polyfit(logs, np.log(rounds), 1)[0]),
        "n_sites": [float(n) for n in settings.n_sites],
        "rounds": rounds,
        "rows": rows,
    }


def ask(settings: Ask, rng: np.random.Generator) -> Measurements:
    """Least seconds of one proposal, the fit of the surrogate apart and included."""
    landscape = EpistaticLandscape(settings.n_sites, settings.n_letters, seed=rng)
    data = rng.integers(landscape.n_choices, size=(settings.n_data, settings.n_sites))
    values = landscape(data)
    seed = int(rng.integers(2**32))
    seconds = []
    for _ in range(settings.repeats + 1):  # the first compiles
        optimiser = GameOpt(
            landscape.n_choices,
            embeddings=landscape.embeddings,
            n_games=settings.n_games,
            random_state=seed,
        ).tell(data, values)
        start = time.perf_counter()
        _ = optimiser.model_
        fitted = time.perf_counter()
        optimiser.ask()
        end = time.perf_counter()
        seconds.append((end - start, end - fitted))
    with_fit, without = np.min(seconds[1:], axis=0)
    return {"seconds": float(with_fit), "seconds_without_fit": float(without)}


# --- Figures -------------------------------------------------------------------------------------------


def draw_search(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("round", "best value found (standard deviations)")
    for index, (method, label) in enumerate(_LABELS.items()):
        if f"scores_{method}" not in rows[0]:
            continue
        scores = figures.curves(rows, f"scores_{method}")
        axes.plot(scores.T, color=f"C{index}", alpha=0.25, linewidth=0.8)
        axes.plot(np.median(scores, axis=0), color=f"C{index}", linewidth=2, label=f"{label}, median")
    axes.legend(frameon=False, loc="lower right", fontsize="small")
    return figure


def draw_equilibria(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    titles = {"gap_of_best": "at the best point found", "smallest_gap": "at its smallest, all points"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        columns = {
            label: figures.values(rows, f"{name}_{method}")
            for method, label in (("best_response", "GameOpt"), ("random", "random points"))
        }
        figures.dots(panel, columns, paired=True)
        panel.set(title=title, ylabel="gain of one change (standard deviations)")
        panel.set_ylim(bottom=0)
    return figure


def draw_growth(rows: Sequence[Measurements]) -> Figure:
    figure, panels = figures.panels(2)
    for panel, name, label in zip(
        panels, ("rows", "rounds"), ("points whose UCB is computed", "rounds"), strict=True
    ):
        n_sites, values = figures.curves(rows, "n_sites"), figures.curves(rows, name)
        panel.plot(n_sites.T, values.T, ".", color="tab:blue", alpha=0.4)
        panel.plot(n_sites[0], np.median(values, axis=0), color="tab:blue")
        panel.set(xscale="log", yscale="log", xlabel="variables", ylabel=f"{label}, one game")
        panel.set_xticks(n_sites[0], [f"{n:g}" for n in n_sites[0]])
        panel.set_xticks([], minor=True)
    return figure


# --- Claims --------------------------------------------------------------------------------------------

_FASTER = Published("very quickly discovers highly active variants compared to other baselines", "abstract")
_STABLE = Published("no variable has an incentive to deviate", "abstract")
_THEOREM = Published("reaches an approximate Nash equilibrium of the objective", "sample complexity bound")
_SCALABLE = Published("breaks the domain down into individual decision sets", "abstract")


def _discoveries() -> tuple[Claim, ...]:
    finals = (
        Claim(
            f"better_than_{baseline}",
            f"finds a better point than {_LABELS[baseline]}"
            + (f", by {margin} standard deviations" if margin else "")
            + ", in as many evaluations",
            better("final_best_response", than=f"final_{baseline}", lower=False, by=margin),
            published=_FASTER,
        )
        for baseline in _BASELINES
        for margin in (_MARGINS.get(baseline, 0.5),)
    )
    means = (
        Claim(
            f"sooner_than_{baseline}",
            f"finds good points sooner than {_LABELS[baseline]}: the best so far is better on average over "
            f"the rounds",
            better("mean_best_response", than=f"mean_{baseline}", lower=False),
            published=_FASTER,
        )
        for baseline in _BASELINES
    )
    return (*finals, *means)


STUDY = Study(
    slug="gameopt",
    experiments=(
        Experiment(
            name="eight_sites",
            trial=search,
            scales={
                "quick": Search(methods=_METHODS),
                "full": Search(methods=_METHODS, rounds=50, n_games=3),
            },
            claims=_discoveries(),
            figure=draw_search,
        ),
        Experiment(
            name="eight_sites_refitted",
            trial=search,
            scales={
                "quick": Search(methods=_METHODS, refit="always"),
                "full": Search(methods=_METHODS, refit="always", rounds=50, n_games=3),
            },
            claims=_discoveries(),
            figure=draw_search,
        ),
        Experiment(
            name="thirty_sites",
            trial=search,
            scales={
                "quick": Search(methods=_METHODS, n_sites=30),
                "full": Search(methods=_METHODS, n_sites=55, rounds=50),
            },
            claims=_discoveries(),
            figure=draw_search,
        ),
        Experiment(
            name="both_subroutines",
            trial=search,
            scales={
                "quick": Search(methods=("best_response", "hedge", "random")),
                "full": Search(methods=("best_response", "hedge", "random"), n_sites=55, rounds=50),
            },
            claims=tuple(
                Claim(
                    f"{method}_works",
                    f"finds a better point with {label} than random points do, by 0.5 standard deviations",
                    better(f"final_{method}", than="final_random", lower=False, by=0.5),
                    published=Published("equilibria by best responses or by no-regret learning", "method"),
                )
                for method, label in (("hedge", "Hedge"), ("best_response", "best responses"))
            ),
            figure=draw_search,
        ),
        Experiment(
            name="small_domain",
            trial=search,
            scales={
                "quick": Search(methods=("best_response", "ucb_enumerate"), n_sites=4, n_letters=12),
                "full": Search(methods=("best_response", "ucb_enumerate"), n_sites=4, rounds=50, n_games=3),
            },
            claims=(
                Claim(
                    "keeps_up_with_enumeration",
                    "finds a point at most 0.25 standard deviations worse than by maximising the UCB over "
                    "all points, where that can be done",
                    better("final_best_response", than="final_ucb_enumerate", lower=False, by=-0.25),
                ),
            ),
            figure=draw_search,
        ),
        Experiment(
            name="equilibria",
            trial=equilibria,
            scales={
                "quick": Search(methods=("best_response", "random")),
                "full": Search(methods=("best_response", "random"), n_sites=55, rounds=50),
            },
            claims=(
                Claim(
                    "proposals_are_equilibria",
                    "proposes points whose UCB no single change raises by more than 1e-9",
                    at_most("largest_gap_of_ucb", 1e-9),
                    published=_STABLE,
                ),
                Claim(
                    "every_game_converges",
                    "ends every game of best responses at an equilibrium",
                    at_least("share_converged", 1.0),
                    published=_STABLE,
                ),
                Claim(
                    "some_point_is_an_approximate_equilibrium",
                    "evaluates a point that no single change improves by more than 0.5 standard deviations",
                    at_most("smallest_gap_best_response", 0.5),
                    published=_THEOREM,
                ),
                Claim(
                    "closer_to_equilibrium_than_random",
                    "evaluates a point that a single change improves by less than any of random search",
                    better("smallest_gap_best_response", than="smallest_gap_random", lower=True),
                    published=_THEOREM,
                ),
                Claim(
                    "the_best_point_is_an_approximate_equilibrium",
                    "ends with a best point that no single change improves by more than 0.5 standard "
                    "deviations",
                    at_most("gap_of_best_best_response", 0.5),
                    published=_THEOREM,
                ),
                Claim(
                    "the_best_point_is_closer_than_that_of_random",
                    "ends with a best point that a single change improves by less than that of random search",
                    better("gap_of_best_best_response", than="gap_of_best_random", lower=True),
                    published=_THEOREM,
                ),
            ),
            figure=draw_equilibria,
        ),
        Experiment(
            name="growth",
            trial=growth,
            scales={"quick": Growth(), "full": Growth(n_sites=(4, 8, 16, 32, 55, 128, 238))},
            claims=(
                Claim(
                    "cost_grows_with_the_sum",
                    "computes the UCB of a number of points that grows with the number of variables to a "
                    "power of 0.8 to 2.2, while the points grow exponentially",
                    between("slope_of_rows", 0.8, 2.2),
                    published=_SCALABLE,
                ),
                Claim(
                    "rounds_grow_slowly",
                    "reaches an equilibrium in rounds that grow with the number of variables to a power of "
                    "at most 1.2",
                    at_most("slope_of_rounds", 1.2),
                    published=_SCALABLE,
                ),
            ),
            figure=draw_growth,
        ),
        Experiment(
            name="one_proposal",
            trial=ask,
            scales={"quick": Ask(), "full": Ask(n_sites=238, n_data=500)},
            claims=(
                Claim(
                    "a_proposal_takes_seconds",
                    "proposes a batch out of 20^40 points within 10 s, the fit of the surrogate included",
                    at_most("seconds", 10),
                    published=Published("scalable to large combinatorial spaces", "abstract"),
                ),
            ),
            exclusive=True,
        ),
    ),
)
