"""Gaussian score approximation: closed forms, the flow's group property, limits, and exact teleportation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from assay.diffusion.gaussian_score import (
    EmpiricalScore,
    GaussianScore,
    explained_variance,
    fit_gaussian_mixture_score,
    sample_teleported,
)
from assay.diffusion.sde import (
    Denoiser,
    EDMSchedule,
    GaussianMixtureDenoiser,
    MLPDenoiser,
    NoiseSchedule,
    VESchedule,
    VPSchedule,
    solve_ode,
)

SCHEDULES = [VPSchedule(), VPSchedule(2, 2, t_max=4.0), VESchedule(), EDMSchedule()]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
D = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def statistics(d: int = D, seed: int = 1) -> tuple[Tensor, Tensor]:
    factor = normal(d, d, seed=seed)
    return normal(d, seed=seed + 1), factor @ factor.mT / d


def gaussian(schedule: NoiseSchedule, *, rank: int | None = None) -> GaussianScore:
    return GaussianScore(*statistics(), schedule, rank=rank)


def truncated(rank: int) -> Tensor:
    values, vectors = torch.linalg.eigh(statistics()[1])
    kept = vectors[:, -rank:]
    return kept * values[-rank:] @ kept.mT


def times(schedule: NoiseSchedule, *parts: float) -> list[float]:
    return [schedule.t_min + part * (schedule.t_max - schedule.t_min) for part in parts]


# ---------------------------------------------------------------------- the Gaussian's score


@schedules
@pytest.mark.parametrize("rank", [None, 1, 3, D])
def test_score_and_denoiser_are_those_of_the_noised_gaussian(
    schedule: NoiseSchedule, rank: int | None
) -> None:
    model = gaussian(schedule, rank=rank)
    mean, covariance = statistics()[0], truncated(rank or D)
    x = normal(5, D, seed=3)
    for t in times(schedule, 0.1, 0.5, 1.0):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        noised = alpha**2 * covariance + sigma**2 * torch.eye(D, dtype=torch.float64)
        score = -torch.linalg.solve(noised, (x - alpha * mean).mT).mT
        torch.testing.assert_close(model.score(x, t), score, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close((alpha * model(x, t) - x) / sigma**2, score, rtol=1e-7, atol=1e-8)


def test_each_point_may_have_its_own_time_and_any_shape() -> None:
    schedule = VPSchedule()
    model = gaussian(schedule, rank=4)
    x, t = normal(3, D), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for method in (model, model.score):
        together = method(x.reshape(3, 1, 2, 3), t)
        assert together.shape == (3, 1, 2, 3)
        apart = torch.cat([method(x[i : i + 1], float(t[i])) for i in range(3)])
        torch.testing.assert_close(together.flatten(1), apart)
    assert model.solution(x.reshape(3, 1, 2, 3), 0.9, 0.1).shape == (3, 1, 2, 3)


def test_the_denoiser_without_noise_projects_onto_the_directions_that_vary() -> None:
    model = gaussian(EDMSchedule(), rank=2)
    x = normal(4, D)
    basis = model.eigenvectors
    projected = model.mean + (x - model.mean) @ basis @ basis.mT
    torch.testing.assert_close(model(x, 0.0), projected)
    torch.testing.assert_close(
        GaussianScore(model.mean, torch.zeros(D, D), EDMSchedule())(x, 0.0)[0], model.mean
    )


def test_eigenvalues_fall_and_diagonalise_the_covariance() -> None:
    model = gaussian(EDMSchedule())
    assert (model.eigenvalues.diff() <= 0).all()
    rebuilt = model.eigenvectors * model.eigenvalues @ model.eigenvectors.mT
    torch.testing.assert_close(rebuilt, statistics()[1])


def test_from_data_takes_the_population_covariance_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.diffusion.gaussian_score._CHUNK_BYTES", 8 * D * 7)
    data = normal(50, 2, 3) + 5
    model = GaussianScore.from_data(data, EDMSchedule(), rank=3)
    expected = GaussianScore(
        data.flatten(1).mean(0), torch.cov(data.flatten(1).mT, correction=0), EDMSchedule(), rank=3
    )
    x = normal(4, D, seed=9)
    torch.testing.assert_close(model(x, 0.7), expected(x, 0.7))
    # float32 data: the sums are in float64 all the same
    from_floats = GaussianScore.from_data(data.float(), EDMSchedule())
    assert from_floats.eigenvalues.dtype == torch.float64
    torch.testing.assert_close(from_floats.eigenvalues[:3], model.eigenvalues, rtol=1e-6, atol=0)


def test_fewer_points_than_dimensions_give_a_model_that_is_exact() -> None:
    data = normal(4, D)
    model = GaussianScore.from_data(data, EDMSchedule())
    assert (model.eigenvalues[3:] < 1e-12).all()
    low = GaussianScore.from_data(data, EDMSchedule(), rank=3)
    x = normal(5, D, seed=4)
    torch.testing.assert_close(low.solution(x, 9.0, 0.0), model.solution(x, 9.0, 0.0), atol=1e-7, rtol=0)


# ---------------------------------------------------------------------- its probability flow


def test_the_worked_example_in_one_dimension() -> None:
    model = GaussianScore(torch.tensor([1.0]), torch.tensor([[4.0]]), EDMSchedule())
    x = torch.tensor([[10.0]], dtype=torch.float64)
    assert model.solution(x, 3.0, 1.0).item() == pytest.approx(1 + 9 * math.sqrt(5 / 13), abs=1e-12)
    assert model.score(x, 3.0).item() == pytest.approx(-9 / 13, abs=1e-12)
    assert model(x, 3.0).item() == pytest.approx(1 + 4 * 9 / 13, abs=1e-12)


@schedules
@pytest.mark.parametrize("rank", [None, 2])
def test_the_solution_solves_the_probability_flow(schedule: NoiseSchedule, rank: int | None) -> None:
    mean, covariance = statistics()[0].numpy(), truncated(rank or D).numpy()

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        score = -np.linalg.solve(alpha**2 * covariance + sigma**2 * np.eye(D), x - alpha * mean)
        return float(schedule.drift_coefficient(t)) * x - float(schedule.diffusion(t)) ** 2 / 2 * score

    x = normal(1, D) * float(schedule.sigma(schedule.t_max))
    for t_from, t_to in (times(schedule, 1.0, 0.2), times(schedule, 0.4, 0.9)):
        path = solve_ivp(velocity, (t_from, t_to), x[0].numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
        ours = gaussian(schedule, rank=rank).solution(x, t_from, t_to)
        torch.testing.assert_close(ours[0], torch.from_numpy(path.y[:, -1]), rtol=1e-7, atol=1e-8)


unit = st.floats(0.01, 1.0)


@given(unit, unit, unit, st.sampled_from(SCHEDULES), st.sampled_from([None, 1, 4]))
@settings(max_examples=60, deadline=None)
def test_solutions_compose_and_invert(
    a: float, b: float, c: float, schedule: NoiseSchedule, rank: int | None
) -> None:
    model, x = gaussian(schedule, rank=rank), normal(3, D)
    t0, t1, t2 = times(schedule, a, b, c)
    direct = model.solution(x, t0, t2)
    scale = max(1.0, float(direct.abs().max()))
    through = model.solution(model.solution(x, t0, t1), t1, t2)
    torch.testing.assert_close(through / scale, direct / scale, rtol=0, atol=1e-9)
    size = max(1.0, float(x.abs().max()))
    torch.testing.assert_close(model.solution(direct, t2, t0) / size, x / size, rtol=0, atol=1e-8)
    torch.testing.assert_close(model.solution(x, t0, t0), x, rtol=1e-12, atol=1e-12)


@schedules
def test_without_spread_only_noise_is_rescaled(schedule: NoiseSchedule) -> None:
    mean, x = statistics()[0], normal(3, D)
    model = GaussianScore(mean, torch.zeros(D, D), schedule)
    t0, t1 = times(schedule, 1.0, 0.3)
    a0, a1, s0, s1 = (float(part(t)) for part in (schedule.alpha, schedule.sigma) for t in (t0, t1))
    torch.testing.assert_close(model.solution(x, t0, t1), a1 * mean + s1 / s0 * (x - a0 * mean))


def test_the_solution_carries_noise_to_the_data() -> None:
    """Whitened: exactly unit Gaussian samples at the start become samples of exactly the data's moments."""
    schedule = EDMSchedule()
    model = gaussian(schedule)
    start_deviation = (model.eigenvalues + schedule.sigma_max**2).sqrt()
    corners = torch.cat((torch.diag(start_deviation), -torch.diag(start_deviation))) * math.sqrt(D)
    start = model.mean + corners @ model.eigenvectors.mT
    end = model.solution(start, schedule.sigma_max, 0.0)
    torch.testing.assert_close(end.mean(0), model.mean)
    torch.testing.assert_close(torch.cov(end.mT, correction=0), statistics()[1])


def test_the_trajectory_is_the_solution_at_each_time() -> None:
    schedule = EDMSchedule()
    model, x = gaussian(schedule, rank=4), normal(3, 2, 3) * 80
    levels = schedule.timesteps(8)
    path = model.trajectory(x, levels)
    assert path.shape == (9, 3, 2, 3)
    for level, state in zip(levels.tolist(), path, strict=True):
        torch.testing.assert_close(state, model.solution(x, 80.0, level))


def test_a_feature_of_the_denoised_image_grows_as_derived() -> None:
    model, x, sigma0 = gaussian(EDMSchedule()), normal(3, D) * 20, 20.0
    start = (x - model.mean) @ model.eigenvectors
    for sigma in (5.0, 1.0, 0.1, 0.0):
        shown = (model.denoised_solution(x, sigma0, sigma) - model.mean) @ model.eigenvectors
        lam = model.eigenvalues
        factor = lam / ((lam + sigma**2) * (lam + sigma0**2)).sqrt()
        torch.testing.assert_close(shown, factor * start)


def test_float32_points_stay_float32_and_close() -> None:
    schedule = EDMSchedule()
    model, x = gaussian(schedule, rank=4), normal(5, D) * 80
    single = gaussian(schedule, rank=4).float()
    for method in (
        lambda m, x: m(x, 1.0),
        lambda m, x: m.score(x, 1.0),
        lambda m, x: m.solution(x, 80.0, 0.1),
    ):
        for low in (method(model, x.float()), method(single, x.float())):
            assert low.dtype == torch.float32
            torch.testing.assert_close(low.double(), method(model, x), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- other analytic scores


@schedules
def test_one_point_is_a_gaussian_without_spread(schedule: NoiseSchedule) -> None:
    point, x = normal(1, D), normal(4, D, seed=2)
    empirical = EmpiricalScore(point, schedule)
    flat = GaussianScore(point[0], torch.zeros(D, D), schedule)
    for t in times(schedule, 0.1, 1.0):
        torch.testing.assert_close(empirical(x, t), flat(x, t))
        torch.testing.assert_close(empirical.score(x, t), flat.score(x, t), rtol=1e-6, atol=1e-8)


@schedules
def test_many_points_are_a_mixture_without_spread(
    schedule: NoiseSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, x = normal(20, 2, 3), normal(7, 2, 3, seed=2)
    empirical = EmpiricalScore(data, schedule)
    mixture = GaussianMixtureDenoiser(
        data.flatten(1), torch.zeros(20, D, D), torch.full((20,), 1 / 20), schedule
    )
    for t in (*times(schedule, 0.1, 0.6, 1.0), torch.tensor(times(schedule, *np.linspace(0.1, 1, 7)))):
        whole = empirical(x, t)
        torch.testing.assert_close(whole, mixture(x, t))
        with monkeypatch.context() as patched:
            patched.setattr("assay.diffusion.gaussian_score._CHUNK_BYTES", 2 * 8 * 20)
            torch.testing.assert_close(empirical(x, t), whole)


def test_the_training_sets_denoiser_goes_from_the_mean_to_the_nearest_point() -> None:
    data, x = normal(30, D), normal(6, D, seed=2)
    empirical = EmpiricalScore(data, EDMSchedule())
    torch.testing.assert_close(empirical(x, 1e6), data.mean(0).expand(6, D), atol=1e-4, rtol=0)
    nearest = data[torch.cdist(x, data).argmin(1)]
    for sigma in (1e-3, 0.0):
        torch.testing.assert_close(empirical(x, sigma), nearest)


def test_at_high_noise_the_training_sets_score_is_its_gaussians() -> None:
    """To order 1 / sigma^2 they are equal for any data, so what is left unexplained falls as sigma^-6."""
    data = torch.from_numpy(np.random.default_rng(0).exponential(size=(40, D)))
    empirical, model = EmpiricalScore(data, EDMSchedule()), GaussianScore.from_data(data, EDMSchedule())
    shares = []
    for sigma in (20.0, 40.0):
        x = data + sigma * normal(40, D, seed=3)
        shares.append(
            float((1 - explained_variance(empirical.score(x, sigma), model.score(x, sigma))).mean())
        )
    assert shares[0] / shares[1] == pytest.approx(2**6, rel=0.3)


def test_one_cluster_is_the_gaussian_and_one_a_point_is_the_training_set() -> None:
    data, x = normal(12, 2, 3), normal(5, 2, 3, seed=2)
    one = fit_gaussian_mixture_score(data, EDMSchedule(), 1, regularization=0.0, seed=0)
    torch.testing.assert_close(one(x, 0.5), GaussianScore.from_data(data, EDMSchedule())(x, 0.5))
    each = fit_gaussian_mixture_score(data, EDMSchedule(), 12, regularization=0.0, seed=0)
    torch.testing.assert_close(each(x, 0.5), EmpiricalScore(data, EDMSchedule())(x, 0.5))


def test_clusters_have_the_moments_of_their_points() -> None:
    near, far = normal(30, 3), normal(10, 3, seed=1) + 50
    mixture = fit_gaussian_mixture_score(torch.cat((near, far)), EDMSchedule(), 2, seed=0)
    order = mixture.weights.argsort()
    torch.testing.assert_close(mixture.weights[order], torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(mixture.means[order], torch.stack((far.mean(0), near.mean(0))))
    x, sigma = near[:4], 1e-3
    expected = GaussianScore(
        near.mean(0), torch.cov(near.mT, correction=0) + 1e-5 * torch.eye(3), EDMSchedule()
    )
    torch.testing.assert_close(mixture.score(x, sigma), expected.score(x, sigma))


def test_the_mixture_has_the_datas_moments_up_to_its_ridge() -> None:
    data = normal(60, 3)
    mixture = fit_gaussian_mixture_score(data, EDMSchedule(), 5, seed=1)
    sigma = 1e4  # where only mean and covariance count
    model = GaussianScore.from_data(data, EDMSchedule())
    x = normal(4, 3) * sigma
    torch.testing.assert_close(mixture(x, sigma), model(x, sigma), rtol=1e-3, atol=1e-3)


def test_points_that_coincide_leave_fewer_clusters() -> None:
    data = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    with pytest.warns(match="distinct clusters"):
        mixture = fit_gaussian_mixture_score(data, EDMSchedule(), 3, seed=0)
    assert mixture.weights.sort().values.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_explained_variance_is_one_less_the_share_missed() -> None:
    x = normal(4, 2, 3)
    torch.testing.assert_close(explained_variance(x, 0.5 * x), torch.full((4,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(explained_variance(x, x), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(explained_variance(x, 0 * x), torch.zeros(4, dtype=torch.float64))
    assert (explained_variance(x, -9 * x) < -90).all()


# ---------------------------------------------------------------------- teleportation


class Curved(Denoiser):
    """A denoiser that is not linear and not a Gaussian's."""

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.tanh(x)


@pytest.mark.parametrize("method", ["heun", "euler", "dpm_solver_2m"])
def test_to_skip_nothing_is_the_plain_sampler(method: str) -> None:
    schedule = EDMSchedule()
    network, x, levels = Curved(schedule), 80 * normal(4, D), schedule.timesteps(10)
    plain = solve_ode(network, x, levels, method=method)
    result = sample_teleported(network, gaussian(schedule), x, levels, skip=0, method=method)
    assert torch.equal(result.x, plain.x)
    assert (result.n_evaluations, result.n_saved, result.t_skip) == (plain.n_evaluations, 0, 80.0)


@pytest.mark.parametrize(("method", "per_step"), [("heun", 2), ("euler", 1), ("dpm_solver_2m", 1)])
@pytest.mark.parametrize("skip", [1, 5, 17])
@pytest.mark.parametrize("schedule", [EDMSchedule(), VPSchedule()], ids=repr)
def test_evaluations_spent_and_saved_are_those_of_all_steps(
    schedule: NoiseSchedule, method: str, per_step: int, skip: int
) -> None:
    levels = schedule.timesteps(18)
    x = schedule.sample_prior((3, D), generator=seeded(), dtype=torch.float64)
    plain = solve_ode(Curved(schedule), x, levels, method=method)
    result = sample_teleported(Curved(schedule), gaussian(schedule), x, levels, skip=skip, method=method)
    assert result.n_saved == per_step * skip
    assert result.n_evaluations + result.n_saved == plain.n_evaluations
    assert result.t_skip == float(levels[skip])


def test_the_hybrid_is_the_solution_and_then_the_sampler() -> None:
    schedule = EDMSchedule()
    model, x, levels = gaussian(schedule), 80 * normal(4, D), schedule.timesteps(18)
    result = sample_teleported(Curved(schedule), model, x, levels, skip=5)
    rest = solve_ode(Curved(schedule), model.solution(x, 80.0, float(levels[5])), levels[5:])
    assert torch.equal(result.x, rest.x)
    assert result.n_evaluations == 25


def test_the_rest_of_the_grid_is_the_grid_of_the_rest() -> None:
    levels = EDMSchedule().timesteps(18)
    again = EDMSchedule(sigma_max=float(levels[5])).timesteps(13)
    torch.testing.assert_close(levels[5:], again)


@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule(), EDMSchedule()], ids=repr)
@pytest.mark.parametrize("skip", [0, 40, 150])
def test_on_gaussian_data_any_skip_ends_where_the_solution_does(schedule: NoiseSchedule, skip: int) -> None:
    model = gaussian(schedule)
    levels = schedule.timesteps(200)
    x = schedule.sample_prior((4, D), generator=seeded(), dtype=torch.float64)
    end = model.solution(x, float(levels[0]), float(levels[-1]))
    result = sample_teleported(model, model, x, levels, skip=skip)
    torch.testing.assert_close(result.x, end, rtol=2e-3, atol=2e-3)


def test_another_sampler_goes_on_from_the_state_skipped_to() -> None:
    schedule = EDMSchedule()
    levels, x = schedule.timesteps(18), 80 * normal(4, D)
    calls = []

    def solver(denoiser: Denoiser, state: Tensor, rest: Tensor):
        calls.append((denoiser, state, rest))
        return solve_ode(denoiser, state, rest, method="euler")

    network, model = Curved(schedule), gaussian(schedule)
    result = sample_teleported(network, model, x, levels, skip=4, method="heun", solver=solver)
    [(denoiser, state, rest)] = calls
    assert denoiser is network
    assert torch.equal(state, model.solution(x, 80.0, float(levels[4])))
    assert torch.equal(rest, levels[4:])
    assert (result.n_evaluations, result.n_saved) == (14, 4)


def test_no_gradients_are_kept() -> None:
    schedule = EDMSchedule()
    x = (80 * torch.randn(2, D, generator=seeded())).requires_grad_()
    network = MLPDenoiser(D, schedule, width=8)
    assert not sample_teleported(
        network, gaussian(schedule), x, schedule.timesteps(4), skip=2
    ).x.requires_grad
    assert gaussian(schedule).solution(x, 80.0, 1.0).requires_grad


# ---------------------------------------------------------------------- bad input

EDM = EDMSchedule()
NOT_SYMMETRIC = torch.tensor([[1.0, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianScore(torch.zeros(2, 1), torch.eye(2), EDM), "mean"),
        (lambda: GaussianScore(torch.tensor([0.0, math.nan]), torch.eye(2), EDM), "mean"),
        (lambda: GaussianScore(torch.zeros(2), torch.eye(3), EDM), r"covariance is to be finite, \(2, 2\)"),
        (lambda: GaussianScore(torch.zeros(2), torch.eye(2) * math.inf, EDM), "covariance is to be finite"),
        (lambda: GaussianScore(torch.zeros(2), NOT_SYMMETRIC, EDM), "symmetric"),
        (lambda: GaussianScore(torch.zeros(2), torch.diag(torch.tensor([1.0, -1e-3])), EDM), "-0.001"),
        (
            lambda: GaussianScore(torch.zeros(2), torch.eye(2), EDM, rank=0),
            "rank is to be from 1 to 2, got 0",
        ),
        (
            lambda: GaussianScore(torch.zeros(2), torch.eye(2), EDM, rank=3),
            "rank is to be from 1 to 2, got 3",
        ),
        (lambda: GaussianScore.from_data(torch.zeros(1, 3), EDM), "N >= 2"),
        (lambda: GaussianScore.from_data(torch.zeros(5), EDM), "data is to have shape"),
        (lambda: GaussianScore.from_data(torch.full((5, 2), math.nan), EDM), "data is to hold finite"),
        (lambda: GaussianScore.from_data(torch.zeros(5, 2, dtype=torch.int64), EDM), "floating-point"),
        (lambda: gaussian(EDM)(torch.zeros(2, 5), 1.0), "6 numbers a point"),
        (lambda: gaussian(EDM).score(torch.zeros(6), 1.0), "6 numbers a point"),
        (lambda: gaussian(EDM).solution(torch.zeros(2, 7), 1.0, 0.5), "6 numbers a point"),
        (lambda: gaussian(EDM).solution(torch.zeros(2, 6), 0.0, 1.0), "sigma 0"),
        (lambda: gaussian(EDM).trajectory(torch.zeros(2, 6), torch.ones(2, 2)), "timesteps"),
        (lambda: gaussian(EDM)(torch.zeros(2, 6), torch.ones(3)), "t is to be"),
        (lambda: EmpiricalScore(torch.zeros(0, 2), EDM), "N >= 1"),
        (lambda: EmpiricalScore(torch.zeros(3, 2), EDM)(torch.zeros(2, 3), 1.0), "2 numbers a point"),
        (lambda: fit_gaussian_mixture_score(torch.zeros(3, 2), EDM, 0), "n_components is to be from 1 to 3"),
        (lambda: fit_gaussian_mixture_score(torch.zeros(3, 2), EDM, 4), "n_components is to be from 1 to 3"),
        (
            lambda: fit_gaussian_mixture_score(torch.zeros(3, 2), EDM, 1, regularization=-1.0),
            "regularization",
        ),
        (lambda: explained_variance(torch.zeros(3, 2), torch.zeros(3, 3)), "one shape"),
        (lambda: explained_variance(torch.zeros(3), torch.zeros(3)), "one shape"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": -1}, "skip is to be from 0 to 4"),
        ({"skip": 5}, "skip is to be from 0 to 4"),
        ({"timesteps": torch.tensor([1.0, 2.0, 0.5])}, "decreasing"),
        ({"timesteps": torch.tensor([1.0])}, "timesteps"),
        ({"method": "midpoint"}, "method is to be one of"),
        ({"gaussian": gaussian(VPSchedule())}, "share a schedule"),
        ({"x": torch.zeros(2, 5)}, "6 numbers a point"),
    ],
)
def test_bad_sampling_is_named(changes: dict, message: str) -> None:
    arguments = {
        "denoiser": Curved(EDM),
        "gaussian": gaussian(EDM),
        "x": torch.zeros(2, D),
        "timesteps": EDM.timesteps(5),
        "skip": 1,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        sample_teleported(**arguments)


def test_rounding_of_a_large_singular_covariance_is_no_error() -> None:
    data = 1e4 * torch.randn(5, 40, generator=seeded())
    model = GaussianScore.from_data(data, EDM)
    assert (model.eigenvalues >= 0).all()
