"""Scores from wide two-layer networks by gradient descent, their kernel limit, and when to stop.

Han, Razaviyayn and Xu, "Neural Network-Based Score Estimation in Diffusion Models: Optimization and
Generalization" (2024), arXiv 2401.15604.

With ``score(x, t) = (alpha f(x, t) - x) / sigma^2`` the error of a score is, sample by sample, ``alpha /
sigma^2`` times that of f as a prediction of the clean point. Weighted by ``sigma^4 / alpha^2``, denoising
score matching is therefore least squares of x_0 on (x_t, t): a regression with noisy labels, of which ``f* =
E[x_0 | x_t]`` is the regression function.

A two-layer ReLU network whose first layer alone is trained follows, the wider the more closely, gradient
descent in the space of its neural tangent kernel, which is one scalar kernel for all outputs. In the
eigenbasis of the kernel matrix that descent has a closed form for every number of steps. As the labels are
noisy it has to stop early; the rule is that of Raskutti, Wainwright and Yu, "Early Stopping and
Non-parametric Regression" (2014), arXiv 1306.3574, applied to the scalar kernel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from assay.diffusion.sde import Denoiser, NoiseSchedule, Time, VPSchedule

Array = NDArray[np.float64]
Seed = int | np.random.Generator | None
Steps = int | float | Literal["early_stopping"]

# Entries of a kernel matrix, or of a layer's outputs, that are held at once: in prediction, and in training,
# where they are gone over several times and fit into a core's cache.
_BLOCK, _CACHED = 2**22, 2**16


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def _matrix(name: str, value: ArrayLike, least_rows: int = 1) -> Array:
    matrix: Array = check_array(value, dtype=np.float64, ensure_min_samples=least_rows, input_name=name)
    return matrix


# ------------------------------------------------------------------------------- regression with noisy labels


@dataclass(frozen=True)
class RegressionData:
    """Denoising score matching as a regression: clean points as noisy labels of E[x_0 | x_t].

    Han, Razaviyayn and Xu (2024), arXiv 2401.15604; `make_regression_data` draws it.

    Attributes:
        t: (N,) times.
        x_t: (N, d) noisy points.
        x_0: (N, d) the clean points that they came from, or other labels.

    Raises ValueError for shapes that do not match and values that are not finite.

    >>> RegressionData(t=np.array([0.5]), x_t=np.zeros((1, 2)), x_0=np.ones((1, 2))).x_0.shape
    (1, 2)
    """

    t: Array
    x_t: Array
    x_0: Array

    def __post_init__(self) -> None:
        for name in ("x_t", "x_0"):
            object.__setattr__(self, name, _matrix(name, getattr(self, name)))
        object.__setattr__(self, "t", np.asarray(self.t, dtype=np.float64))
        if self.x_0.shape != self.x_t.shape:
            raise ValueError(f"x_0 must have the shape {self.x_t.shape} of x_t, got {self.x_0.shape}")
        if self.t.shape != self.x_t.shape[:1] or not np.isfinite(self.t).all():
            raise ValueError(f"t must be {len(self.x_t)} finite times, got shape {self.t.shape}")


def make_regression_data(
    x_0: ArrayLike,
    schedule: NoiseSchedule,
    n_samples: int,
    *,
    t_start: float = 0.1,
    t_end: float = 2.0,
    seed: Seed = None,
) -> RegressionData:
    """Draws ``x_t = alpha(t) x_0 + sigma(t) eps`` at uniform times: the training set of arXiv 2401.15604.

    Arguments:
        x_0: (n, d) clean data.
        schedule: the forward process.
        n_samples: N. Rows of x_0 are drawn without replacement while there are enough, else with.
        t_start, t_end: ends of the interval of the times.
        seed: an int, a generator (drawn from), or None for a fresh one.

    Raises ValueError for data that is no finite matrix, n_samples below 1, times that are not ``0 < t_start <
    t_end <= schedule.t_max``, and a schedule that has not alpha, sigma and t_max.

    >>> data = make_regression_data(np.eye(3), VPSchedule(2, 2, t_max=5), 100, seed=0)
    >>> data.x_t.shape, bool(data.t.min() > 0.1), bool(data.t.max() < 2.0)
    ((100, 3), True, True)
    """
    clean = _matrix("x_0", x_0)
    _require(_is_count(n_samples, 1), "n_samples", n_samples, "an integer of at least 1")
    _check_schedule(schedule, t_start, t_end)
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(clean), n_samples, replace=n_samples > len(clean))
    t = rng.uniform(t_start, t_end, n_samples)
    chosen = clean[rows]
    alpha, sigma = _levels(schedule, t)
    noise = rng.standard_normal(chosen.shape)
    return RegressionData(t=t, x_t=alpha[:, None] * chosen + sigma[:, None] * noise, x_0=chosen)


def _check_schedule(schedule: NoiseSchedule, t_start: float, t_end: float) -> None:
    for name in ("alpha", "sigma", "t_max"):
        if not hasattr(schedule, name):
            raise ValueError(f"schedule must have {name}, as a NoiseSchedule has; got {schedule!r}")
    _require(_is_positive(t_start), "t_start", t_start, "a positive number")
    _require(t_start < t_end, "t_start", t_start, f"below t_end = {t_end}")
    _require(t_end <= schedule.t_max, "t_end", t_end, f"at most the schedule's t_max = {schedule.t_max}")


def _levels(schedule: NoiseSchedule, t: Array) -> tuple[Array, Array]:
    times = torch.tensor(t, dtype=torch.float64)
    return schedule.alpha(times).numpy(), schedule.sigma(times).numpy()


# ------------------------------------------------------------------------------------------------- the kernel


def relu_ntk(z1: ArrayLike, z2: ArrayLike) -> Array:
    """Neural tangent kernel of a wide two-layer ReLU network whose first layer alone is trained.

    ``k(z, z') = z.z' (pi - arccos(rho)) / (2 pi)`` with the cosine rho of the two, the same for every output;
    between outputs it is 0 (Han, Razaviyayn and Xu, 2024, arXiv 2401.15604).

    Arguments:
        z1: (n1, p).
        z2: (n2, p).

    Returns:
        (n1, n2).

    Raises ValueError for what are no finite matrices of one width.

    >>> relu_ntk([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).tolist()
    [[0.5, 0.0, 1.0]]
    """
    first, second = _matrix("z1", z1), _matrix("z2", z2)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"z1 and z2 must have one width, got {first.shape[1]} and {second.shape[1]}")
    return _relu_ntk(first, second)


def _relu_ntk(first: Array, second: Array) -> Array:
    kernel: Array = first @ second.T
    norms = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    cosines = np.divide(kernel, norms, out=np.zeros_like(kernel), where=norms > 0)
    # A cosine that rounding leaves just below 1 has an arc cosine of 1e-8 where equal points have 0.
    cosines[cosines > 1 - 1e-15] = 1
    angles = np.arccos(np.maximum(cosines, -1, out=cosines), out=cosines)
    kernel *= np.subtract(np.pi, angles, out=angles)
    kernel /= 2 * np.pi
    return kernel


def stopping_time(
    eigenvalues: ArrayLike, learning_rate: float, noise_std: float, *, max_steps: int = 100_000
) -> int:
    """The number of steps after which kernel gradient descent on noisy labels is to stop.

    With ``e_k = learning_rate k`` and the local complexity ``R(u)^2 = mean_i min(l_i, u^2)``, it is one less
    than the first k for which ``R(e_k^-1/2) > 1 / (2 e noise_std e_k)``, at least 1: the rule of Raskutti,
    Wainwright and Yu (2014), arXiv 1306.3574, which Han, Razaviyayn and Xu (2024), arXiv 2401.15604, carry
    over to scores. It is cautious: the constants are those of a proof.

    Arguments:
        eigenvalues: (N,) of the kernel matrix divided by N, in any order; those below 0 count as 0.
        learning_rate: of descent on ``1/(2N)`` times the sum of squares.
        noise_std: standard deviation of the labels' noise, in one coordinate.
        max_steps: returned if the rule has not stopped by then.

    Raises ValueError for eigenvalues that are not finite, and numbers that are not positive.

    >>> [stopping_time(1 / np.arange(1, 51) ** 2, 1.0, noise) for noise in (0.5, 0.1, 0.01)]
    [2, 20, 494]
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues must be a list of finite numbers, got shape {values.shape}")
    _require(_is_positive(learning_rate), "learning_rate", learning_rate, "a positive number")
    _require(_is_positive(noise_std), "noise_std", noise_std, "a positive number")
    _require(_is_count(max_steps, 1), "max_steps", max_steps, "an integer of at least 1")
    values = np.clip(values, 0, None)

    def stops(step: int) -> bool:
        elapsed = learning_rate * step
        # The square of 2 e s elapsed R(elapsed^-1/2), which increases with every step.
        complexity = np.minimum(values * elapsed**2, elapsed).mean()
        return bool((2 * math.e * noise_std) ** 2 * complexity > 1)

    if not stops(max_steps):
        return max_steps
    low, high = 0, max_steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if stops(middle) else (middle, high)
    return max(low, 1)


@dataclass(frozen=True)
class _KernelPath:
    """Gradient descent in a kernel's space on ``1/(2N)`` times the sum of squares, at any step."""

    inputs: Array
    eigenvalues: Array
    """Of the kernel matrix divided by N, decreasing."""
    vectors: Array
    projected: Array
    """The labels in the eigenbasis."""

    @classmethod
    def of(cls, inputs: Array, labels: Array) -> _KernelPath:
        eigenvalues, vectors = np.linalg.eigh(_relu_ntk(inputs, inputs) / len(inputs))
        eigenvalues, vectors = np.clip(eigenvalues[::-1], 0, None), np.ascontiguousarray(vectors[:, ::-1])
        return cls(inputs, eigenvalues, vectors, vectors.T @ labels)

    def shrinkage(self, learning_rate: float, n_steps: int | float) -> Array:
        """``(1 - (1 - rate l)^steps) / l`` for each eigenvalue l, and its limit where l is 0."""
        values = self.eigenvalues
        if math.isinf(n_steps):
            kept = values > 1e-12 * values[0]
            return np.divide(1.0, values, out=np.zeros_like(values), where=kept)
        rates = learning_rate * values
        learned = np.empty_like(values)
        slow = rates < 0.5
        learned[slow] = -np.expm1(n_steps * np.log1p(-rates[slow]))
        learned[~slow] = 1 - (1 - rates[~slow]) ** n_steps
        return np.divide(learned, values, out=np.full_like(values, learning_rate * n_steps), where=values > 0)

    def coefficients(self, learning_rate: float, n_steps: int | float) -> Array:
        """(N, d): what the kernel between new and training inputs is multiplied by."""
        shrunk = self.shrinkage(learning_rate, n_steps)[:, None] * self.projected
        coefficients: Array = self.vectors @ shrunk / len(self.inputs)
        return coefficients


def _held_out_noise(inputs: Array, labels: Array, max_steps: int, rng: np.random.Generator) -> float:
    """The least error per coordinate, along the kernel path of one half of the data, on the other half."""
    order = rng.permutation(len(inputs))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    path = _KernelPath.of(inputs[first], labels[first])
    features = _relu_ntk(inputs[second], inputs[first]) @ path.vectors / len(first)
    learning_rate = 1 / path.eigenvalues[0]
    errors = [
        np.mean(
            (features @ (path.shrinkage(learning_rate, steps)[:, None] * path.projected) - labels[second])
            ** 2
        )
        for steps in np.unique(np.geomspace(1, max_steps, 30).astype(int)).tolist()
    ]
    # Labels without noise would give a standard deviation of 0, for which there is no rule.
    return float(np.sqrt(max(np.min(errors), np.finfo(np.float64).tiny)))


# --------------------------------------------------------------------------------------------- the estimators


class _ScoreRegressor(BaseEstimator):
    """What the kernel and the network have in common: the regression, the stopping time, and the score."""

    def __init__(
        self,
        *,
        schedule: NoiseSchedule | None,
        n_samples: int | None,
        t_start: float,
        t_end: float,
        n_steps: Steps,
        learning_rate: float | None,
        noise_std: float | None,
        bias: bool,
        radius: float | None,
        max_steps: int,
        random_state: Seed,
    ) -> None:
        self.schedule = schedule
        self.n_samples = n_samples
        self.t_start = t_start
        self.t_end = t_end
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.noise_std = noise_std
        self.bias = bias
        self.radius = radius
        self.max_steps = max_steps
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn the score of clean data X, (n, d) with n at least 4; y is ignored.

        Raises ValueError for X that is not such a finite matrix, and for parameters out of range.
        """
        self._check_parameters()
        clean = validate_data(self, X, dtype=np.float64, ensure_min_samples=4)
        rng = np.random.default_rng(self.random_state)
        n_samples = len(clean) if self.n_samples is None else self.n_samples
        data = make_regression_data(
            clean, self._forward_process, n_samples, t_start=self.t_start, t_end=self.t_end, seed=rng
        )
        self._fit(data, rng)
        return self

    def fit_regression(self, data: RegressionData) -> Self:
        """Learn from a regression that is drawn already; `n_samples` is not read.

        Raises ValueError for fewer than 4 rows, times outside ``(0, t_max]``, and parameters out of range.
        """
        self._check_parameters()
        validate_data(self, data.x_t, dtype=np.float64, ensure_min_samples=4)
        self._check_times(data.t)
        self._fit(data, np.random.default_rng(self.random_state))
        return self

    def predict(self, x: ArrayLike, t: ArrayLike, *, n_steps: int | float | None = None) -> Array:
        """The estimate of E[x_0 | x_t = x], (n, d); 0 for every x longer than `radius_`.

        Arguments:
            x: (n, d) noisy points.
            t: their time, or (n,), one for each, above 0 and at most the schedule's `t_max`. The estimate
                extrapolates outside [t_start, t_end].
            n_steps: after how many steps of gradient descent; None for `n_steps_`.

        Raises ValueError for other shapes, times and steps, and NotFittedError before `fit`.
        """
        check_is_fitted(self)
        points: Array = validate_data(self, x, dtype=np.float64, reset=False)
        times = self._times(t, len(points))
        steps = self.n_steps_ if n_steps is None else n_steps
        inside = np.linalg.norm(points, axis=1) <= self.radius_
        predicted = np.zeros_like(points)
        predicted[inside] = self._predict(self._inputs(points[inside], times[inside]), steps)
        return predicted

    def predict_score(self, x: ArrayLike, t: ArrayLike, *, n_steps: int | float | None = None) -> Array:
        """The estimated score of x_t, ``(alpha predict(x, t) - x) / sigma^2``, (n, d); see `predict`."""
        predicted = self.predict(x, t, n_steps=n_steps)
        points = np.asarray(x, dtype=np.float64)
        alpha, sigma = _levels(self._forward_process, self._times(t, len(points)))
        score: Array = (alpha[:, None] * predicted - points) / sigma[:, None] ** 2
        return score

    def as_denoiser(self) -> Denoiser:
        """The estimate as a denoiser, for `solve_ode` and `solve_sde`; it has no gradient.

        Raises NotFittedError before `fit`.
        """
        check_is_fitted(self)
        return _RegressorDenoiser(self, self._forward_process)

    @property
    def _forward_process(self) -> NoiseSchedule:
        return VPSchedule(beta_min=2, beta_max=2, t_max=5.0) if self.schedule is None else self.schedule

    def _check_parameters(self) -> None:
        _check_schedule(self._forward_process, self.t_start, self.t_end)
        if self.n_samples is not None:
            _require(_is_count(self.n_samples, 4), "n_samples", self.n_samples, "an integer of at least 4")
        if self.n_steps != "early_stopping":
            self._check_steps(self.n_steps)
        for name in ("learning_rate", "noise_std", "radius"):
            value = getattr(self, name)
            _require(value is None or _is_positive(value), name, value, "a positive number")
        _require(_is_count(self.max_steps, 1), "max_steps", self.max_steps, "an integer of at least 1")

    def _check_steps(self, n_steps: object) -> None:
        valid = _is_count(n_steps, 0) or n_steps == math.inf
        _require(valid, "n_steps", n_steps, "'early_stopping', an integer of at least 0, or inf")

    def _check_times(self, times: Array) -> None:
        t_max = self._forward_process.t_max
        valid = (times > 0) & (times <= t_max)
        if not valid.all():
            raise ValueError(f"t must be above 0 and at most {t_max}, got {times[~valid][0]}")

    def _times(self, t: ArrayLike, count: int) -> Array:
        times = np.asarray(t, dtype=np.float64)
        if times.shape not in ((), (count,)):
            raise ValueError(f"t must be one time or have shape {(count,)}, got shape {times.shape}")
        self._check_times(np.atleast_1d(times))
        return np.broadcast_to(times, (count,))

    def _inputs(self, points: Array, times: Array) -> Array:
        columns = [points, (times - self.t_start)[:, None]]
        if self.bias:
            columns.append(np.ones((len(points), 1)))
        return np.concatenate(columns, axis=1)

    def _fit(self, data: RegressionData, rng: np.random.Generator) -> None:
        self.radius_ = self._default_radius(data) if self.radius is None else float(self.radius)
        inside = np.linalg.norm(data.x_t, axis=1) <= self.radius_
        if inside.sum() < 4:
            raise ValueError(
                f"radius must leave at least 4 of the {len(inside)} noisy points inside, "
                f"got {self.radius_:.6g}, which leaves {inside.sum()}"
            )
        self.data_ = RegressionData(t=data.t[inside], x_t=data.x_t[inside], x_0=data.x_0[inside])
        inputs = self._inputs(self.data_.x_t, self.data_.t)
        self.eigenvalues_ = self._decompose(inputs)
        limit = 2 / self.eigenvalues_[0]
        if self.learning_rate is not None and self.learning_rate >= limit:
            raise ValueError(f"learning_rate must be below {limit:.6g} here, got {self.learning_rate!r}")
        self.learning_rate_ = float(limit / 2 if self.learning_rate is None else self.learning_rate)
        self.noise_std_ = None if self.noise_std is None else float(self.noise_std)
        if self.n_steps == "early_stopping":
            if self.noise_std_ is None:
                self.noise_std_ = _held_out_noise(inputs, self.data_.x_0, self.max_steps, rng)
            self.n_steps_: int | float = stopping_time(
                self.eigenvalues_, self.learning_rate_, self.noise_std_, max_steps=self.max_steps
            )
        else:
            self.n_steps_ = self.n_steps
        self._train(inputs, rng)

    def _default_radius(self, data: RegressionData) -> float:
        # A Gaussian vector is longer than sqrt(d) + sqrt(2 log N) with probability at most 1/N.
        alpha, sigma = _levels(self._forward_process, np.array([self.t_start, self.t_end]))
        n_samples, d = data.x_0.shape
        data_part = alpha[0] * np.linalg.norm(data.x_0, axis=1).max()
        return float(data_part + sigma[1] * (math.sqrt(d) + math.sqrt(2 * math.log(n_samples))))

    @abstractmethod
    def _decompose(self, inputs: Array) -> Array:
        """The eigenvalues of the kernel matrix divided by N, decreasing."""

    @abstractmethod
    def _train(self, inputs: Array, rng: np.random.Generator) -> None:
        """What is left to do once rate and number of steps are known."""

    @abstractmethod
    def _predict(self, inputs: Array, n_steps: int | float) -> Array:
        """The estimate at inputs (n, p), (n, d)."""


class _RegressorDenoiser(Denoiser):
    def __init__(self, regressor: _ScoreRegressor, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.regressor = regressor

    def forward(self, x: Tensor, t: Time) -> Tensor:
        times = t.detach().cpu().numpy() if isinstance(t, Tensor) else t
        predicted = self.regressor.predict(x.detach().flatten(1).cpu().numpy(), times)
        return torch.from_numpy(predicted).reshape(x.shape).to(x)


def _row_blocks(rows: int, width: int, entries: int) -> Iterator[slice]:
    size = max(1, entries // width)
    return (slice(start, start + size) for start in range(0, rows, size))


class KernelScoreRegressor(_ScoreRegressor):
    """A score without a network: gradient descent in the space of the neural tangent kernel, stopped early.

    Han, Razaviyayn and Xu (2024), arXiv 2401.15604. It is the limit of infinite width of
    `NetworkScoreRegressor`, in closed form: one eigendecomposition, then any number of steps at once. The
    cost is cubic in the number of noisy points; some thousands are practical.

    Arguments:
        schedule: the forward process; None for the Ornstein-Uhlenbeck process, ``VPSchedule(2, 2, t_max=5)``.
        n_samples: N, number of noisy points to learn from; None for as many as there are clean ones.
        t_start, t_end: they are at times uniform between these.
        n_steps: of gradient descent: a number, `numpy.inf` for training to the end, or "early_stopping" for
            `stopping_time`.
        learning_rate: of descent on ``1/(2N)`` times the sum of squares, below 2 over the largest eigenvalue;
            None for 1 over it.
        noise_std: standard deviation of the labels' noise in one coordinate, which early stopping reads; None
            to estimate it from the error on a held-out half.
        bias: whether a constant joins the kernel's inputs, x and t; without it the kernel is homogeneous.
        radius: noisy points longer than this are not learned from, and the estimate there is 0; None for a
            ball that each leaves with probability 1/N at most.
        max_steps: the most that early stopping takes.
        random_state: an int, a generator (drawn from), or None.

    Attributes:
        data_: `RegressionData`, the noisy points inside the radius and their labels.
        eigenvalues_: of the kernel matrix divided by the number of them, decreasing.
        learning_rate_, noise_std_, n_steps_, radius_: those used; noise_std_ is None if neither given nor
            needed.

    >>> rng = np.random.default_rng(0)
    >>> x_0 = np.array([[-1.0], [1.0]])[rng.integers(2, size=300)]
    >>> model = KernelScoreRegressor(random_state=0).fit(x_0)
    >>> model.predict([[0.8], [-0.8]], 0.2, n_steps=200).round(1).tolist()
    [[0.8], [-1.0]]
    >>> model.predict_score([[1.5]], 0.2).shape
    (1, 1)
    """

    def __init__(
        self,
        *,
        schedule: NoiseSchedule | None = None,
        n_samples: int | None = None,
        t_start: float = 0.1,
        t_end: float = 2.0,
        n_steps: Steps = "early_stopping",
        learning_rate: float | None = None,
        noise_std: float | None = None,
        bias: bool = True,
        radius: float | None = None,
        max_steps: int = 100_000,
        random_state: Seed = None,
    ) -> None:
        super().__init__(
            schedule=schedule,
            n_samples=n_samples,
            t_start=t_start,
            t_end=t_end,
            n_steps=n_steps,
            learning_rate=learning_rate,
            noise_std=noise_std,
            bias=bias,
            radius=radius,
            max_steps=max_steps,
            random_state=random_state,
        )

    def _decompose(self, inputs: Array) -> Array:
        self._path = _KernelPath.of(inputs, self.data_.x_0)
        return self._path.eigenvalues

    def _train(self, inputs: Array, rng: np.random.Generator) -> None:
        self._stopped = self._path.coefficients(self.learning_rate_, self.n_steps_)

    def _predict(self, inputs: Array, n_steps: int | float) -> Array:
        if n_steps == self.n_steps_:
            coefficients = self._stopped
        else:
            self._check_steps(n_steps)
            coefficients = self._path.coefficients(self.learning_rate_, n_steps)
        predicted = np.empty((len(inputs), coefficients.shape[1]))
        for block in _row_blocks(len(inputs), len(coefficients), _BLOCK):
            predicted[block] = _relu_ntk(inputs[block], self._path.inputs) @ coefficients
        return predicted


class NetworkScoreRegressor(_ScoreRegressor):
    """A wide two-layer ReLU network that learns a score by plain gradient descent, stopped early.

    Han, Razaviyayn and Xu (2024), arXiv 2401.15604: ``f(z) = m^-1/2 sum_r a_r relu(w_r . z)`` with inputs
    ``z = (x, t - t_start, 1)``. Signs a_r are random and stay; the weights w_r start from a standard normal
    and learn. The second half of the neurons starts as the first with its signs reversed, so that f starts
    from 0, where the path of `KernelScoreRegressor` starts.

    Arguments:
        width: m, number of neurons, even.
        checkpoints: further numbers of steps after which to keep the weights; training goes on to the
            greatest.
        schedule, n_samples, t_start, t_end, n_steps, learning_rate, noise_std, bias, radius, max_steps,
            random_state: as in `KernelScoreRegressor`, except that n_steps has an end. Equal random states
            give the two the same data.

    Attributes:
        weight_: (m, p) after n_steps_ steps.
        sign_: (m, d).
        checkpoints_: the weights by number of steps.
        data_, eigenvalues_, learning_rate_, noise_std_, n_steps_, radius_: as in `KernelScoreRegressor`; the
            eigenvalues are those of the kernel for infinite width.

    `predict` takes for n_steps those of `checkpoints` and `n_steps_`.

    >>> rng = np.random.default_rng(0)
    >>> x_0 = np.array([[-1.0], [1.0]])[rng.integers(2, size=300)]
    >>> model = NetworkScoreRegressor(width=512, checkpoints=(0, 200), random_state=0).fit(x_0)
    >>> model.predict([[0.8], [-0.8]], 0.2, n_steps=200).round(1).tolist()
    [[0.8], [-0.9]]
    >>> model.predict([[0.8]], 0.2, n_steps=0).tolist()
    [[0.0]]
    """

    def __init__(
        self,
        *,
        schedule: NoiseSchedule | None = None,
        n_samples: int | None = None,
        t_start: float = 0.1,
        t_end: float = 2.0,
        n_steps: Steps = "early_stopping",
        learning_rate: float | None = None,
        noise_std: float | None = None,
        bias: bool = True,
        radius: float | None = None,
        max_steps: int = 100_000,
        random_state: Seed = None,
        width: int = 2048,
        checkpoints: Sequence[int] = (),
    ) -> None:
        super().__init__(
            schedule=schedule,
            n_samples=n_samples,
            t_start=t_start,
            t_end=t_end,
            n_steps=n_steps,
            learning_rate=learning_rate,
            noise_std=noise_std,
            bias=bias,
            radius=radius,
            max_steps=max_steps,
            random_state=random_state,
        )
        self.width = width
        self.checkpoints = checkpoints

    def _check_parameters(self) -> None:
        super()._check_parameters()
        even = _is_count(self.width, 2) and self.width % 2 == 0
        _require(even, "width", self.width, "a positive even integer")
        for steps in self.checkpoints:
            _require(_is_count(steps, 0), "checkpoints", steps, "integers of at least 0")

    def _check_steps(self, n_steps: object) -> None:
        _require(_is_count(n_steps, 0), "n_steps", n_steps, "'early_stopping' or an integer of at least 0")

    def _decompose(self, inputs: Array) -> Array:
        eigenvalues = np.linalg.eigvalsh(_relu_ntk(inputs, inputs) / len(inputs))
        return np.clip(eigenvalues[::-1], 0, None)

    def _train(self, inputs: Array, rng: np.random.Generator) -> None:
        half = self.width // 2
        weight = np.tile(rng.standard_normal((half, inputs.shape[1])), (2, 1))
        sign = rng.choice([-1.0, 1.0], (half, self.data_.x_0.shape[1]))
        self.sign_ = np.concatenate([sign, -sign])
        labels = np.ascontiguousarray(self.data_.x_0.T)
        outputs = np.zeros_like(labels)
        self.checkpoints_: dict[int, Array] = {}
        done = 0
        for steps in sorted({*map(int, self.checkpoints), int(self.n_steps_)}):
            _descend(weight, self.sign_, inputs, labels, outputs, self.learning_rate_, steps - done)
            self.checkpoints_[steps] = weight.copy()
            done = steps
        self.weight_ = self.checkpoints_[int(self.n_steps_)]

    def _predict(self, inputs: Array, n_steps: int | float) -> Array:
        if n_steps not in self.checkpoints_:
            kept = ", ".join(map(str, self.checkpoints_))
            raise ValueError(f"n_steps must be one of the checkpoints {kept}, got {n_steps!r}")
        weight, half = self.checkpoints_[int(n_steps)], self.width // 2
        predicted = np.empty((len(inputs), self.sign_.shape[1]))
        for block in _row_blocks(len(inputs), len(weight), _BLOCK):
            hidden, opposite = (inputs[block] @ part.T for part in (weight[:half], weight[half:]))
            # Neurons are subtracted from those of opposite sign before any sum, so that step 0 is 0 exactly.
            difference = np.maximum(hidden, 0, out=hidden) - np.maximum(opposite, 0, out=opposite)
            predicted[block] = difference @ self.sign_[:half]
        predicted /= math.sqrt(len(weight))
        return predicted


def _descend(
    weight: Array,
    sign: Array,
    inputs: Array,
    labels: Array,
    outputs: Array,
    learning_rate: float,
    n_steps: int,
) -> None:
    """Steps of full-batch gradient descent on ``1/(2N)`` times the sum of squares, in place.

    Inputs (N, p), labels and outputs (d, N); outputs are those of the weights, before and after. One pass
    over blocks of neurons, whose (block, N) matrices stay in the cache, does the step of each and adds its
    new outputs.
    """
    scale = 1 / math.sqrt(len(weight))
    rate = learning_rate * scale / len(inputs)
    columns = np.ascontiguousarray(inputs.T)
    blocks = list(_row_blocks(len(weight), len(inputs), _CACHED))
    for _ in range(n_steps):
        residual = outputs - labels
        outputs[:] = 0
        for block in blocks:
            neurons, signs = weight[block], sign[block]
            hidden = neurons @ columns
            pull = signs @ residual
            pull *= hidden > 0
            neurons -= rate * (pull @ inputs)
            np.matmul(neurons, columns, out=hidden)
            np.maximum(hidden, 0, out=hidden)
            outputs += (scale * signs.T) @ hidden
