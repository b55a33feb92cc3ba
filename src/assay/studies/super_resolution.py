"""Multimodal super-resolution put to the test: fine fields from coarse grids, scattered points and both.

The fields are synthetic weather: a random stream function with the spectrum of smooth turbulence, the zonal
wind that belongs to it plus two jets, and a temperature with fronts that falls towards the poles, of mean 0
and variance 1 in each channel. A trial trains one prior and observes held-out fields with errors. The error
of a reconstruction is the root mean square over all cells, channels and fields, that of an ensemble is its
mean's. Climatology is the training fields' mean. Measured and drawn beside the method, though no claim
speaks of it, is optimal interpolation, the best linear estimate from their mean and covariance.

The scale "full" needs a GPU and, in a folder, standardised ERA5 fields at 1.40625 degrees, train.npy and
test.npy (N, C, 128, 256), rows from south to north, and stations.npy (S, 2), latitude and longitude of
radiosonde stations, at each of which all channels are observed. It is no part of the recorded evidence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from assay.diffusion.sde import Denoiser, EDMSchedule, MLPDenoiser, Time, UNetDenoiser, fit_denoiser
from assay.diffusion.super_resolution import (
    CoarseObservation,
    PointObservation,
    crps_ensemble,
    grid_coordinates,
    sample_posterior,
    spread_skill_ratio,
    zonal_power_spectrum,
)
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
    near,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Source = Callable[[Tensor], CoarseObservation | PointObservation]
"""What was observed of some of the held-out fields, given their numbers."""


@dataclass(frozen=True)
class Weather:
    """Fields, a prior of them, what is observed of held-out ones, and a sampler."""

    height: int = 8
    width: int = 16
    n_train: int = 4000
    n_test: int = 24
    folder: str = ""
    network: Literal["mlp", "unet"] = "mlp"
    network_width: int = 384
    network_depth: int = 2
    training_steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-3
    sigma_max: float = 20.0
    coarse_height: int = 2
    coarse_width: int = 4
    coarse_noise: float = 0.1
    n_points: int = 20
    point_noise: float = 0.1
    members: int = 16
    sampling_steps: int = 25
    churn: float = 20.0
    inflation: float = 0.1
    clip: float = 1.0
    fields_at_once: int = 24
    device: str = "cpu"


@dataclass(frozen=True)
class Balance(Weather):
    """The points err by `point_noise`, and are once said to err by `understated_noise`."""

    point_noise: float = 0.8
    understated_noise: float = 0.1


@dataclass(frozen=True)
class Sensors(Weather):
    """All `n_points` are observed, and subsets of them with `fewer_points` values."""

    n_points: int = 80
    fewer_points: tuple[int, int] = (5, 20)


# --- Fields, prior, observations -----------------------------------------------------------------------


def _weather(settings: Weather, rng: np.random.Generator) -> tuple[NDArray[np.float64], Tensor, Tensor]:
    """The weight of each row's cells in errors, (H, 1), training fields and held-out ones."""
    if settings.folder:
        train, test = (
            torch.from_numpy(np.load(Path(settings.folder) / f"{name}.npy")) for name in ("train", "test")
        )
        height = train.shape[2]
        area = np.cos(np.pi * ((np.arange(height) + 0.5) / height - 0.5))[:, None]
        chosen = np.sort(rng.permutation(len(test))[: settings.n_test])
        return area / area.mean(), train.float(), test[torch.from_numpy(chosen)].float()
    height, width, count = settings.height, settings.width, settings.n_train + settings.n_test
    # A circle of longitude passes both poles: twice the rows are periodic, of which one half is kept.
    wavenumber = np.hypot(np.fft.fftfreq(2 * height, 1 / (2 * height))[:, None], np.arange(width // 2 + 1))
    noise = np.fft.rfft2(rng.standard_normal((count, 2 * height, width)))
    stream = np.fft.irfft2(noise * (1 + wavenumber**2) ** -1.5, s=(2 * height, width))[:, :height]
    stream /= stream.std()
    latitude = np.linspace(-1, 1, height)[:, None]
    eddies = -np.gradient(stream, axis=1)
    jets = sum(np.exp(-(((latitude - centre) / 0.2) ** 2)) for centre in (-0.5, 0.5))
    fields = np.stack([eddies / eddies.std() + 1.5 * jets, np.tanh(1.5 * stream) - 1.5 * latitude**2], axis=1)
    seen, axes = fields[: settings.n_train], (0, 2, 3)
    fields = (fields - seen.mean(axes, keepdims=True)) / seen.std(axes, keepdims=True)
    train, test = torch.from_numpy(fields).float().tensor_split([settings.n_train])
    return np.ones((height, 1)), train, test


class _OfFields(Denoiser):
    """A network for vectors as a prior of fields."""

    def __init__(self, network: MLPDenoiser) -> None:
        super().__init__(network.schedule)
        self.network = network
        self.sigma_data = network.sigma_data

    def forward(self, x: Tensor, t: Time) -> Tensor:
        clean: Tensor = self.network(x.flatten(1), t).reshape(x.shape)
        return clean


def _trained(settings: Weather, train: Tensor, rng: np.random.Generator) -> Denoiser:
    schedule = EDMSchedule(sigma_max=settings.sigma_max, p_mean=-0.8, p_std=1.3)
    width, depth = settings.network_width, settings.network_depth
    torch.manual_seed(int(rng.integers(2**63)))
    prior: Denoiser
    if settings.network == "mlp":
        prior = _OfFields(MLPDenoiser(train[0].numel(), schedule, width=width, depth=depth))
    else:
        prior = UNetDenoiser(len(train[0]), schedule, width=width, levels=depth, periodic_width=True)
    prior.to(settings.device)
    fit_denoiser(
        prior,
        train.to(settings.device),
        n_steps=settings.training_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        generator=torch.Generator(settings.device).manual_seed(int(rng.integers(2**63))),
    )
    return prior


class _Reconstruction:
    """A trained prior, and held-out fields with what was observed of them."""

    def __init__(self, settings: Weather, rng: np.random.Generator) -> None:
        self._settings = settings
        area, self.train, self.truth = _weather(settings, rng)
        self._area = torch.from_numpy(area)
        self.prior = _trained(settings, self.train, rng)
        channels, height, width = self.truth.shape[1:]
        if settings.folder:
            stations = rng.permutation(np.load(Path(settings.folder) / "stations.npy"))[: settings.n_points]
            places = grid_coordinates(stations[:, 0], stations[:, 1], (height, width), poles=False)
            self._locations = places.repeat_interleave(channels, 0)
        else:
            drawn = rng.uniform((0, 0), (height - 1, width), (settings.n_points, 2))
            self._locations = torch.from_numpy(drawn)
        self.n_values = len(self._locations)
        self._channels = torch.arange(self.n_values) % channels
        coarse = functional.adaptive_avg_pool2d(self.truth, (settings.coarse_height, settings.coarse_width))
        unread = torch.zeros(self.n_values)
        at_points = PointObservation(unread, self._locations, self._channels, std=1.0).operator(self.truth)
        self._coarse_values, self._point_values = (
            exact + noise * torch.from_numpy(rng.standard_normal(exact.shape)).float()
            for exact, noise in ((coarse, settings.coarse_noise), (at_points, settings.point_noise))
        )
        self._sampling_seed = int(rng.integers(2**63))

    def coarse(self, numbers: Tensor) -> CoarseObservation:
        """Of the fields of these numbers, once for each member; so are `points`."""
        values = self._coarse_values[numbers].to(self._settings.device)
        std, inflation = self._settings.coarse_noise, self._settings.inflation
        return CoarseObservation(values, std=std, inflation=inflation)

    def points(self, numbers: Tensor, count: int | None = None, std: float | None = None) -> PointObservation:
        return PointObservation(
            *(
                part.to(self._settings.device)
                for part in (
                    self._point_values[numbers, :count],
                    self._locations[:count],
                    self._channels[:count],
                )
            ),
            std=self._settings.point_noise if std is None else std,
            inflation=self._settings.inflation,
        )

    def sample(self, *sources: Source) -> Tensor:
        """An ensemble of every held-out field, (M, n_test, C, H, W), from noise that all calls share."""
        settings = self._settings
        generator = torch.Generator(settings.device).manual_seed(self._sampling_seed)
        timesteps = EDMSchedule(sigma_max=settings.sigma_max).timesteps(settings.sampling_steps)
        parts = []
        for numbers in torch.split(torch.arange(len(self.truth)), settings.fields_at_once):
            each_member = numbers.repeat(settings.members)
            ensemble = sample_posterior(
                self.prior,
                [source(each_member) for source in sources],
                self.truth.shape[1:],
                len(each_member),
                timesteps,
                clip=settings.clip,
                churn=settings.churn,
                generator=generator,
                device=settings.device,
            )
            parts.append(
                ensemble.samples.reshape(settings.members, len(numbers), *self.truth.shape[1:]).cpu()
            )
        return torch.cat(parts, dim=1)

    def error(self, estimate: Tensor) -> float:
        """The root mean square error, cells weighted by their area."""
        return float(((estimate - self.truth).square() * self._area).mean().sqrt())

    def interpolated(self) -> Tensor:
        """The coarse fields on the fine grid, bilinearly, and around the globe."""
        height, width = self.truth.shape[2:]
        around = torch.cat([self._coarse_values] * 3, dim=3)
        fine = functional.interpolate(around, size=(height, 3 * width), mode="bilinear")
        return fine[..., width : 2 * width]

    def optimal_interpolation(self) -> Tensor:
        """The best linear estimate from the coarse grid and the points."""
        everything = torch.arange(len(self.truth))
        sources = (self.coarse(everything), self.points(everything))
        climate = self.train.mean(0, keepdim=True)
        anomalies = self.train - climate

        def observed(fields: Tensor) -> Tensor:
            parts = [source.operator(fields.to(self._settings.device)).flatten(1) for source in sources]
            return torch.cat(parts, dim=1).cpu().double()

        seen = observed(anomalies)
        errors = torch.cat([torch.full((source.values[0].numel(),), float(source.std)) for source in sources])
        covariance = seen.mT @ seen / (len(seen) - 1) + errors.double().square().diag()
        values = torch.cat([source.values.flatten(1) for source in sources], dim=1).cpu().double()
        weights = torch.linalg.solve(covariance, (values - observed(climate)).mT)
        increment = (seen @ weights).mT.float() @ anomalies.flatten(1) / (len(seen) - 1)
        estimate: Tensor = climate + increment.reshape(self.truth.shape)
        return estimate


# --- Trials --------------------------------------------------------------------------------------------


def fusion(settings: Weather, rng: np.random.Generator) -> Measurements:
    """Held-out fields from the coarse grid, from the points and from both."""
    weather = _Reconstruction(settings, rng)
    truth = weather.truth
    ensembles = {
        "coarse": weather.sample(weather.coarse),
        "points": weather.sample(weather.points),
        "both": weather.sample(weather.coarse, weather.points),
    }
    both = ensembles["both"]
    mean, spread = both.mean(0), both.std(0)
    interpolated = weather.interpolated()
    errors = {f"error_{name}": weather.error(ensemble.mean(0)) for name, ensemble in ensembles.items()}
    climatology = weather.error(weather.train.mean(0))

    def small_scale_power(fields: Tensor) -> Tensor:
        """At the wavenumbers that the coarse grid cannot hold."""
        return zonal_power_spectrum(fields)[..., settings.coarse_width // 2 + 1 :].sum()

    return {
        **errors,
        "error_best_single": min(errors["error_coarse"], errors["error_points"]),
        "error_interpolated": weather.error(interpolated),
        "error_climatology": climatology,
        "error_optimal_interpolation": weather.error(weather.optimal_interpolation()),
        "error_share_of_climatology": errors["error_both"] / climatology,
        "spread_skill_ratio": spread_skill_ratio(both, truth),
        "rank_correlation": float(spearmanr(spread.flatten(), (mean - truth).abs().flatten()).statistic),
        "crps": crps_ensemble(both, truth),
        "absolute_error_of_mean": float((mean - truth).abs().mean()),
        "small_scale_power": float(small_scale_power(both) / settings.members / small_scale_power(truth)),
        "small_scale_power_interpolated": float(small_scale_power(interpolated) / small_scale_power(truth)),
        **{
            f"map_{name}": fields[0, 0].flatten().tolist()
            for name, fields in (
                ("truth", truth),
                ("interpolated", interpolated),
                ("mean", mean),
                ("spread", spread),
            )
        },
        "map_width": float(truth.shape[-1]),
    }


def balance(settings: Balance, rng: np.random.Generator) -> Measurements:
    """An accurate coarse grid and points with large errors, which are stated as they are, and too small."""
    weather = _Reconstruction(settings, rng)

    def understated(numbers: Tensor) -> PointObservation:
        return weather.points(numbers, std=settings.understated_noise)

    errors = {
        name: weather.error(weather.sample(*sources).mean(0))
        for name, sources in {
            "coarse": (weather.coarse,),
            "stated": (weather.coarse, weather.points),
            "understated": (weather.coarse, understated),
        }.items()
    }
    return {
        **{f"error_{name}": error for name, error in errors.items()},
        "error_ratio_to_coarse": errors["stated"] / errors["coarse"],
    }


def sensors(settings: Sensors, rng: np.random.Generator) -> Measurements:
    """One prior, with the coarse grid and few or many points."""
    weather = _Reconstruction(settings, rng)
    before = copy.deepcopy(weather.prior.state_dict())
    few, several = settings.fewer_points

    def error(count: int | None) -> float:
        def points(numbers: Tensor) -> PointObservation:
            return weather.points(numbers, count)

        return weather.error(weather.sample(weather.coarse, points).mean(0))

    errors = {
        "coarse": weather.error(weather.sample(weather.coarse).mean(0)),
        "few": error(few),
        "several": error(several),
        "many": error(None),
    }
    after = weather.prior.state_dict()
    changed = sum(not torch.equal(before[name], weights) for name, weights in after.items())
    return {
        **{f"error_{name}": value for name, value in errors.items()},
        "weights_changed": float(changed),
        "points": [0.0, *map(float, settings.fewer_points), float(weather.n_values)],
        "errors": list(errors.values()),
    }


# --- Figures -------------------------------------------------------------------------------------------


def draw_fusion(rows: Sequence[Measurements]) -> Figure:
    figure, (maps, errors) = figures.panels(2)
    first = rows[:1]
    width = int(figures.values(first, "map_width")[0])
    truth, interpolated, mean, spread = (
        figures.curves(first, f"map_{name}")[0].reshape(-1, width)
        for name in ("truth", "interpolated", "mean", "spread")
    )
    labels = ("truth", "coarse grid,\ninterpolated", "ensemble mean", "ensemble spread")
    gap = np.full((1, width), np.nan)
    # North on top, and the truth as the topmost map.
    stacked = np.concatenate(
        [part for field in (truth, interpolated, mean, spread) for part in (field[::-1], gap)][:-1]
    )
    limit = float(np.abs(truth).max())
    image = maps.imshow(stacked, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    centres = (len(truth) + 1) * np.arange(4) + (len(truth) - 1) / 2
    maps.set_yticks(centres, labels)
    maps.set_xticks([])
    maps.spines[:].set_visible(False)
    maps.tick_params(length=0)
    figure.colorbar(image, ax=maps, label="zonal wind, standard deviations", shrink=0.6)
    columns = {
        "climatology": "climatology",
        "interpolated": "interpolated",
        "points": "points",
        "coarse grid": "coarse",
        "both": "both",
        "linear of both": "optimal_interpolation",
    }
    figures.dots(
        errors, {label: figures.values(rows, f"error_{name}") for label, name in columns.items()}, paired=True
    )
    errors.set_ylabel("error, standard deviations")
    errors.set_ylim(bottom=0)
    errors.tick_params(axis="x", rotation=45)
    return figure


def draw_balance(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("", "error, standard deviations")
    columns = {
        "coarse grid alone": "coarse",
        "with points, errors stated": "stated",
        "with points, errors understated": "understated",
    }
    figures.dots(
        axes, {label: figures.values(rows, f"error_{name}") for label, name in columns.items()}, paired=True
    )
    axes.set_ylim(bottom=0)
    return figure


def draw_sensors(rows: Sequence[Measurements]) -> Figure:
    figure, axes = figures.axes("values at points, beside the coarse grid", "error, standard deviations")
    points, errors = figures.curves(rows, "points")[0], figures.curves(rows, "errors")
    axes.plot(points, errors.T, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(points, np.median(errors, axis=0), "o-", color="tab:blue")
    axes.set_xscale("symlog", linthresh=float(points[1]))
    axes.set_xticks(points, [f"{count:g}" for count in points])
    axes.set_ylim(bottom=0)
    return figure


# --- The study -----------------------------------------------------------------------------------------

_RECOVERY = Published(
    "accurate recovery of the high dimensional state given multiple sources of low-fidelity measurements",
    "abstract",
)
_UNCERTAINTY = Published("score-based sampling can be used for uncertainty estimates", "abstract")
_BALANCE = Published(
    "the generative model can balance the influence of multiple dataset modalities", "abstract"
)
_LARGER: dict[str, Any] = {
    "height": 16,
    "width": 32,
    "coarse_height": 4,
    "coarse_width": 8,
    "network": "unet",
    "network_width": 24,
    "training_steps": 4000,
    "batch_size": 64,
    "learning_rate": 2e-3,
}
_FULL: dict[str, Any] = {
    "folder": "era5",
    "network": "unet",
    "network_width": 128,
    "network_depth": 4,
    "training_steps": 200_000,
    "batch_size": 32,
    "learning_rate": 2e-4,
    "sigma_max": 80.0,
    "coarse_height": 48,
    "coarse_width": 96,
    "n_points": 400,
    "sampling_steps": 100,
    "fields_at_once": 1,
    "device": "cuda",
}

STUDY = Study(
    slug="super_resolution",
    experiments=(
        Experiment(
            name="fusion",
            trial=fusion,
            scales={
                "quick": Weather(),
                "larger": Weather(**_LARGER, n_points=80),
                "full": Weather(**_FULL),
            },
            claims=(
                Claim(
                    "recovery",
                    "recovers fine fields from a coarse grid and points with at most 2/3 of the error of "
                    "interpolating the grid and half of that of climatology",
                    all_of(
                        better("error_both", than="error_interpolated", lower=True, factor=1.5),
                        at_most("error_share_of_climatology", 0.5),
                    ),
                    published=_RECOVERY,
                ),
                Claim(
                    "both_beat_either",
                    "recovers them with an error lower by 0.04 from two sources than from the better one",
                    better("error_both", than="error_best_single", lower=True, by=0.04),
                    published=_RECOVERY,
                ),
                Claim(
                    "spread_is_calibrated",
                    "has an ensemble whose spread is that of its errors, to 35 %",
                    near("spread_skill_ratio", 1, 0.35),
                    published=_UNCERTAINTY,
                ),
                Claim(
                    "spread_finds_errors",
                    "has an ensemble whose spread ranks the places by their errors (rank correlation 0.25)",
                    at_least("rank_correlation", 0.25),
                    published=_UNCERTAINTY,
                ),
                Claim(
                    "ensemble_beats_its_mean",
                    "has an ensemble of a probability score better by 0.01 than the score of its mean alone",
                    better("crps", than="absolute_error_of_mean", lower=True, by=0.01),
                    published=_UNCERTAINTY,
                ),
                Claim(
                    "keeps_small_scales",
                    "has samples with the truth's power at scales that the coarse grid cannot hold, to a "
                    "factor of 2",
                    between("small_scale_power", 0.5, 2),
                ),
            ),
            figure=draw_fusion,
        ),
        Experiment(
            name="balance",
            trial=balance,
            scales={
                "quick": Balance(),
                "larger": Balance(**_LARGER, n_points=80),
                "full": Balance(**_FULL),
            },
            claims=(
                Claim(
                    "poor_source_does_no_harm",
                    "loses at most 5 % by points of large errors, if these are stated",
                    at_most("error_ratio_to_coarse", 1.05),
                    published=_BALANCE,
                ),
                Claim(
                    "stated_errors_count",
                    "has an error lower by 0.08 with the points' errors stated than with too small ones",
                    better("error_stated", than="error_understated", lower=True, by=0.08),
                    published=_BALANCE,
                ),
            ),
            figure=draw_balance,
        ),
        Experiment(
            name="sensors",
            trial=sensors,
            scales={
                "quick": Sensors(),
                "larger": Sensors(**_LARGER, n_points=320, fewer_points=(20, 80)),
                "full": Sensors(**_FULL | {"n_points": 800, "fewer_points": (1300, 5200)}),
            },
            claims=(
                Claim(
                    "zero_shot",
                    "serves any set of sensors with the same weights, and errs less with 20 than with 5 and "
                    "less with 80 than with 20",
                    all_of(
                        at_most("weights_changed", 0),
                        better("error_several", than="error_few", lower=True),
                        better("error_many", than="error_several", lower=True),
                    ),
                    published=Published("zero-shot conditioning of the generated samples", "abstract"),
                ),
            ),
            figure=draw_sensors,
        ),
    ),
)
