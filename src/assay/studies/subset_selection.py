"""Selection from biased rankings put to the test: what a lower bound recovers, and from how many rankings.

Quality is the score of the selected items on the unbiased rankings, as a share of the best there is; for
Chamberlin-Courant the best is what the greedy selection finds on them. The bound asks for as many
disadvantaged items as there are among the best (half of the size where groups are random), fixed beforehand:
the paper's curves take the best bound of several afterwards, which cannot lose. Items have random numbers, or
are tried in a random order, because most are tied under SNTV and an order by quality would help it. The
scales called "full" have the paper's sizes; they have not been run here. Of the paper's five cultures the
Mallows model and, with a dispersion of 1, impartial culture are here; urn, normalised Mallows and
single-peaked rankings are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assay.evidence import (
    Claim,
    Experiment,
    Measurements,
    Published,
    Study,
    all_of,
    at_least,
    at_most,
    better,
    between,
    figures,
)
from assay.inference.subset_selection import (
    CommitteeRule,
    committee_score,
    estimate_smoothness,
    item_scores,
    mallows_rankings,
    power_utility_borda_means,
    power_utility_rankings,
    power_utility_top_probabilities,
    select_by_scores,
    select_committee,
    swap_bias,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {"borda": "Borda", "bloc": "Bloc", "sntv": "SNTV", "chamberlin_courant": "Chamberlin-Courant"}
_COLOURS = {"borda": "tab:blue", "bloc": "tab:orange", "sntv": "tab:green"}


@dataclass(frozen=True)
class SwapBias:
    """Mallows profiles around random centres, a random half of the items advantaged by swaps."""

    n_rankings: int = 200
    n_items: int = 30
    size: int = 6
    dispersion: float = 0.7
    phi: float = 0.5
    fraction: float = 0.3
    profiles: int = 12

    def rules(self) -> dict[str, CommitteeRule]:
        return {
            "borda": CommitteeRule.borda(),
            "bloc": CommitteeRule.bloc(self.size),
            "sntv": CommitteeRule.sntv(),
            "chamberlin_courant": CommitteeRule.chamberlin_courant(),
        }

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Unbiased rankings, and which items are advantaged."""
        center = rng.permutation(self.n_items)
        advantaged = rng.permutation(self.n_items) < self.n_items // 2
        return mallows_rankings(self.n_rankings, center, self.dispersion, seed=rng), advantaged


@dataclass(frozen=True)
class MoreSwaps(SwapBias):
    n_rankings: int = 50
    fractions: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9)
    profiles: int = 24


@dataclass(frozen=True)
class UtilityBias:
    """Power utilities with exponents evenly spaced, of which every other item's are multiplied by `bias`."""

    items: tuple[int, ...] = (8, 12, 16, 20, 24)
    best_exponent: float = 2.0
    worst_exponent: float = 0.5
    bias: float = 0.6


@dataclass(frozen=True)
class RankingsNeeded(UtilityBias):
    """A quarter of the items is chosen. The number of rankings doubles in two steps, up to `most_sntv` for
    SNTV, whose votes can be drawn without the rankings, and `most_borda` for Borda."""

    quality: float = 0.97
    repetitions: int = 60
    most_sntv: int = 2**30
    most_borda: int = 2**12


@dataclass(frozen=True)
class SmoothnessTool(UtilityBias):
    items: tuple[int, ...] = (8, 16, 24)
    n_rankings: int = 1000
    n_trials: int = 200
    least_events: float = 20.0
    """Expected number of points of the least item from which on an estimate counts as resolved."""
    clear_difference: float = 0.9


@dataclass(frozen=True)
class _Model:
    """m items under one rule in expectation: mean scores for one ranking, as a share of the largest one."""

    exponents: NDArray[np.float64]
    weak: NDArray[np.bool_]
    bias: float
    latent: NDArray[np.float64]
    biased: NDArray[np.float64]

    @classmethod
    def of(cls, settings: UtilityBias, m: int, rule: str) -> _Model:
        exponents = np.linspace(settings.best_exponent, settings.worst_exponent, m)
        weak = np.arange(m) % 2 == 1
        if rule == "sntv":
            means, largest = power_utility_top_probabilities, 1
        else:
            means, largest = power_utility_borda_means, m - 1
        return cls(
            exponents,
            weak,
            settings.bias,
            latent=means(exponents) / largest,
            biased=means(exponents, disadvantaged=weak, bias=settings.bias) / largest,
        )

    @property
    def alpha(self) -> float:
        return float(min(self.latent.min(), self.biased.min()))

    def unbiased_rankings(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return power_utility_rankings(n, self.exponents, seed=rng)

    def biased_rankings(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return power_utility_rankings(n, self.exponents, disadvantaged=self.weak, bias=self.bias, seed=rng)

    def quality(
        self, scores: NDArray[np.float64], order: NDArray[np.int64], *, bounded: bool = True
    ) -> float:
        """Quality of the quarter of the items that the scores select; ties go to the first in the order."""
        size = len(order) // 4
        best = np.argsort(-self.latent)[:size]
        bound = int(self.weak[best].sum()) if bounded else 0
        chosen = select_by_scores(scores[order], size, groups=self.weak[order], lower_bounds=[0, bound])
        return float(self.latent[order[chosen]].sum() / self.latent[best].sum())


def _qualities(
    settings: SwapBias,
    rule: CommitteeRule,
    latent: NDArray[np.int64],
    biased: NDArray[np.int64],
    advantaged: NDArray[np.bool_],
) -> tuple[float, float]:
    """Quality without and with the bound."""
    best = select_committee(latent, settings.size, rule).score
    qualities = []
    for bound in (0, settings.size // 2):
        chosen = select_committee(biased, settings.size, rule, groups=~advantaged, lower_bounds=[0, bound])
        qualities.append(committee_score(latent, chosen.items, rule) / best)
    return qualities[0], qualities[1]


def constraints_help(settings: SwapBias, rng: np.random.Generator) -> Measurements:
    """Mean quality without and with the bound, for four rules on the same profiles."""
    rules = settings.rules()
    found = np.empty((settings.profiles, len(rules), 2))
    for p in range(settings.profiles):
        latent, advantaged = settings.draw(rng)
        biased = swap_bias(latent, advantaged, fraction=settings.fraction, phi=settings.phi, seed=rng)
        found[p] = [_qualities(settings, rule, latent, biased, advantaged) for rule in rules.values()]
    means = found.mean(axis=0)
    return {
        f"{name}_{variant}": float(quality)
        for name, qualities in zip(rules, means, strict=True)
        for variant, quality in zip(("free", "bounded"), qualities, strict=True)
    }


def more_swaps(settings: MoreSwaps, rng: np.random.Generator) -> Measurements:
    """Mean quality of the same profiles under more and more bias, without and with the bound."""
    rules = {name: rule for name, rule in settings.rules().items() if rule.separable}
    found = np.empty((settings.profiles, len(settings.fractions), len(rules), 2))
    for p in range(settings.profiles):
        latent, advantaged = settings.draw(rng)
        for f, fraction in enumerate(settings.fractions):
            biased = swap_bias(latent, advantaged, fraction=fraction, phi=settings.phi, seed=rng)
            found[p, f] = [_qualities(settings, rule, latent, biased, advantaged) for rule in rules.values()]
    measurements: dict[str, float | list[float]] = {"fractions": list(settings.fractions)}
    before_separation = np.array(settings.fractions) <= 0.3
    for name, qualities in zip(rules, found.mean(axis=0).swapaxes(0, 1), strict=True):
        free, bounded = qualities.T
        measurements |= {
            f"{name}_free": free.tolist(),
            f"{name}_bounded": bounded.tolist(),
            f"{name}_least_fall": float(-np.diff(free[before_separation]).max()),
            f"{name}_recovered": float((bounded[-1] - free[-1]) / (1 - free[-1])),
        }
    return measurements


def unlimited_rankings(settings: UtilityBias, rng: np.random.Generator) -> Measurements:
    """Quality by the expected biased scores over the sizes: the most without the bound, the least with it."""
    measurements: dict[str, float] = {}
    for rule in ("borda", "sntv"):
        models = [_Model.of(settings, m, rule) for m in settings.items]
        free, bounded = (
            [model.quality(model.biased, np.arange(len(model.weak)), bounded=bounded) for model in models]
            for bounded in (False, True)
        )
        measurements |= {f"{rule}_most_free": max(free), f"{rule}_least_bounded": min(bounded)}
    return measurements


def _biased_scores(rule: str, model: _Model, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if rule == "sntv":
        return rng.multinomial(n, model.biased).astype(np.float64)
    return item_scores(model.biased_rankings(n, rng), CommitteeRule.borda())


def _needed(settings: RankingsNeeded, rule: str, model: _Model, rng: np.random.Generator) -> int:
    """The fewest rankings of the grid whose mean quality suffices, or the most that are tried."""
    most = settings.most_sntv if rule == "sntv" else settings.most_borda
    for n in np.rint(2 ** np.arange(2, np.log2(most), 0.5)).astype(int).tolist():
        qualities = [
            model.quality(_biased_scores(rule, model, n, rng), rng.permutation(len(model.weak)))
            for _ in range(settings.repetitions)
        ]
        if np.mean(qualities) >= settings.quality:
            return int(n)
    return most


def rankings_needed(settings: RankingsNeeded, rng: np.random.Generator) -> Measurements:
    """How the number of rankings from which the bound recovers quality grows with the number of items."""
    measurements: dict[str, float | list[float]] = {"items": [float(m) for m in settings.items]}
    for rule in ("borda", "sntv"):
        models = [_Model.of(settings, m, rule) for m in settings.items]
        doublings = np.log2([_needed(settings, rule, model, rng) for model in models])
        roughness = -np.log2([model.alpha for model in models])
        measurements |= {
            f"{rule}_doublings": doublings.tolist(),
            f"{rule}_roughness": roughness.tolist(),
            f"{rule}_growth": float(np.polyfit(settings.items, doublings, 1)[0]),
            f"{rule}_growth_with_roughness": float(np.polyfit(roughness, doublings, 1)[0]),
        }
    return measurements


def smoothness_tool(settings: SmoothnessTool, rng: np.random.Generator) -> Measurements:
    """The estimated smoothness of Borda and SNTV, and alpha in closed form."""
    measurements: dict[str, float | list[float]] = {"items": [float(m) for m in settings.items]}
    rankings = settings.n_trials * settings.n_rankings
    deviations, borda_gammas = [], []
    for name, rule in (("borda", CommitteeRule.borda()), ("sntv", CommitteeRule.sntv())):
        models = [_Model.of(settings, m, name) for m in settings.items]
        found = [
            estimate_smoothness(
                rule,
                partial(model.unbiased_rankings, settings.n_rankings),
                partial(_biased_anew, model),
                model.weak,
                n_trials=settings.n_trials,
                seed=rng,
            )
            for model in models
        ]
        for model, smoothness in zip(models, found, strict=True):
            if model.alpha * rankings >= settings.least_events:
                deviations.append(abs(smoothness.alpha - model.alpha) / smoothness.alpha_error)
            if name == "borda":
                borda_gammas.append(smoothness.gamma[smoothness.beta <= settings.clear_difference][-1])
        alphas = [smoothness.alpha for smoothness in found]
        measurements |= {
            f"{name}_alpha": alphas,
            f"{name}_alpha_error": [smoothness.alpha_error for smoothness in found],
            f"{name}_alpha_exact": [model.alpha for model in models],
            f"{name}_least_alpha": min(alphas),
            f"{name}_most_alpha": max(alphas),
        }
    return {
        **measurements,
        "worst_deviation": float(max(deviations)),
        "borda_gamma": float(max(borda_gammas)),
    }


def _biased_anew(model: _Model, rankings: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Biased rankings drawn on their own: smoothness compares expectations, not rankings."""
    return model.biased_rankings(len(rankings), rng)


def draw_constraints_help(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("score function", "quality (share of the best)")
    for place, name in enumerate(_LABELS):
        pairs = np.array([figures.values(rows, f"{name}_{variant}") for variant in ("free", "bounded")])
        ends = [place - 0.15, place + 0.15]
        axes.plot(ends, pairs, color="tab:grey", alpha=0.4, linewidth=0.8)
        for end, values, colour, label in zip(
            ends, pairs, ("tab:red", "tab:blue"), ("without the bound", "with it"), strict=True
        ):
            axes.plot([end] * len(rows), values, "o", color=colour, alpha=0.5, markersize=4, label=label)
        if place == 0:
            axes.legend(frameon=False, loc="lower right")
    axes.set_xticks(range(len(_LABELS)), _LABELS.values())
    return figure


def draw_more_swaps(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("swaps (fraction of the pairs)", "quality (share of the best)")
    for name, colour in _COLOURS.items():
        for variant, style, label in (("free", "--", "alone"), ("bounded", "-", "with the bound")):
            median = np.median(figures.curves(rows, f"{name}_{variant}"), axis=0)
            axes.plot(
                figures.curves(rows, "fractions")[0], median, "o" + style, color=colour, markersize=4,
                label=f"{_LABELS[name]} {label}",
            )  # fmt: skip
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def draw_rankings_needed(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("items", "rankings needed with the bound")
    for name in ("sntv", "borda"):
        needed = 2 ** figures.curves(rows, f"{name}_doublings")
        axes.plot(figures.curves(rows, "items")[0], needed.T, color=_COLOURS[name], alpha=0.25, linewidth=0.8)
        axes.plot(
            figures.curves(rows, "items")[0], np.median(needed, axis=0), "o-", color=_COLOURS[name],
            label=f"{_LABELS[name]}, median",
        )  # fmt: skip
    axes.set_yscale("log", base=2)
    axes.legend(frameon=False)
    return figure


def draw_smoothness_tool(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("items", "alpha (share of the largest score)")
    items = figures.curves(rows, "items")[0]
    for name in ("borda", "sntv"):
        colour = _COLOURS[name]
        axes.plot(
            items,
            figures.curves(rows, f"{name}_alpha_exact")[0],
            color=colour,
            label=f"{_LABELS[name]}, exact",
        )
        # An item that was never first has alpha 0, which a logarithm cannot show.
        estimates = figures.curves(rows, f"{name}_alpha")
        shown = np.where(estimates > 0, estimates, np.nan)
        axes.plot(items, shown.T, "o", color=colour, alpha=0.4, markersize=4)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


_IMPROVES = Published("higher quality for Borda, Bloc and SNTV", "figure over swap fractions")
_TOOL = Published("a tool that guides the choice of the score function", "abstract")
_CONTRAST = Published(
    "an exponential number of rankings for some functions, polynomial for others", "abstract"
)

STUDY = Study(
    slug="subset_selection",
    experiments=(
        Experiment(
            name="constraints_help",
            trial=constraints_help,
            scales={
                "quick": SwapBias(),
                "impartial": SwapBias(dispersion=1.0),
                "full": SwapBias(n_rankings=100, n_items=50, size=10, profiles=40),
            },
            claims=(
                *(
                    Claim(
                        f"helps_{name}",
                        f"gains at least 0.01 of the best quality under bias, for {label}",
                        better(f"{name}_bounded", than=f"{name}_free", lower=False, by=0.01),
                        published=None if name == "chamberlin_courant" else _IMPROVES,
                    )
                    for name, label in _LABELS.items()
                ),
                Claim(
                    "restores_borda",
                    "restores at least 0.97 of the best quality for Borda",
                    at_least("borda_bounded", 0.97),
                    published=_IMPROVES,
                ),
            ),
            figure=draw_constraints_help,
        ),
        Experiment(
            name="more_swaps",
            trial=more_swaps,
            scales={
                "quick": MoreSwaps(),
                "full": MoreSwaps(
                    n_rankings=100,
                    n_items=50,
                    size=10,
                    profiles=40,
                    fractions=tuple(np.linspace(0, 1, 8).tolist()),
                ),
            },
            claims=(
                Claim(
                    "bias_costs_quality",
                    "loses quality with more swaps when it has no bound, for Borda up to a fraction of 0.3",
                    at_least("borda_least_fall", 0.0),
                    published=Published("lower quality with more swaps", "figure over swap fractions"),
                ),
                Claim(
                    "recovers_more_for_borda",
                    "recovers more of what the strongest bias costs for Borda than for SNTV, "
                    "from as many rankings",
                    better("borda_recovered", than="sntv_recovered", lower=False),
                    published=_CONTRAST,
                ),
            ),
            figure=draw_more_swaps,
        ),
        Experiment(
            name="unlimited_rankings",
            trial=unlimited_rankings,
            scales={"quick": UtilityBias(), "full": UtilityBias(items=(8, 16, 24, 32, 64, 128))},
            claims=(
                Claim(
                    "more_rankings_are_no_cure",
                    "gains at least 0.01 of the best quality by the bound even from unlimited rankings",
                    all_of(
                        *(
                            better(f"{rule}_least_bounded", than=f"{rule}_most_free", lower=False, by=0.01)
                            for rule in ("borda", "sntv")
                        )
                    ),
                ),
                Claim(
                    "recovers_the_best",
                    "recovers the best quality from unlimited rankings",
                    all_of(*(at_least(f"{rule}_least_bounded", 1 - 1e-9) for rule in ("borda", "sntv"))),
                    published=Published("a close-to-optimal solution, given enough rankings", "abstract"),
                ),
            ),
            deterministic=True,
        ),
        Experiment(
            name="rankings_needed",
            trial=rankings_needed,
            scales={
                "quick": RankingsNeeded(),
                "full": RankingsNeeded(items=(8, 12, 16, 20, 24, 28, 32), repetitions=500),
            },
            claims=(
                Claim(
                    "exponential_for_sntv",
                    "needs exponentially many rankings for SNTV: 0.3 to 0.8 doublings more with each item",
                    between("sntv_growth", 0.3, 0.8),
                    published=_CONTRAST,
                ),
                Claim(
                    "not_exponential_for_borda",
                    "needs hardly more rankings for Borda: at most 0.1 doublings more with each item",
                    at_most("borda_growth", 0.1),
                    published=_CONTRAST,
                ),
                Claim(
                    "smoothness_predicts",
                    "needs rankings in inverse proportion to alpha for SNTV, to a power of 0.7 to 1.3",
                    between("sntv_growth_with_roughness", 0.7, 1.3),
                    published=Published(
                        "smoothness quantifies how well a function assesses quality", "abstract"
                    ),
                ),
            ),
            figure=draw_rankings_needed,
        ),
        Experiment(
            name="smoothness_tool",
            trial=smoothness_tool,
            scales={"quick": SmoothnessTool(), "full": SmoothnessTool(n_rankings=4000, n_trials=1000)},
            claims=(
                Claim(
                    "estimates_alpha",
                    "estimates alpha within 4 standard errors wherever it is resolved",
                    at_most("worst_deviation", 4.0),
                    published=_TOOL,
                ),
                Claim(
                    "ranks_the_rules",
                    "finds Borda smoother than SNTV at every number of items",
                    better("borda_least_alpha", than="sntv_most_alpha", lower=False),
                    published=_TOOL,
                ),
                Claim(
                    "order_survives_for_borda",
                    "finds an item that is 10 % worse than another of its group at least 1 % below it in "
                    "Borda score, despite the bias",
                    at_most("borda_gamma", 0.99),
                ),
            ),
            figure=draw_smoothness_tool,
        ),
    ),
)
