"""Gaussian mixtures of experts: densities, scores, sampling and maximum likelihood for any softmax gate.

Given x in R^d, expert i answers with a normal y of mean ``a_i.x + b_i`` and variance ``nu_i``, and is chosen
with the probability that a gate gives it:

    g(y | x) = sum_i softmax_i(logits(x)) N(y | a_i.x + b_i, nu_i),
    logits_i(x) = (s(beta_1i.x) + beta_0i) / tau  where expert i is selected at x, -inf elsewhere.

A `Gate` is the choice of the activation s and of the selection; all else here works for every gate. The
losses over Voronoi cells in which the theory of these models (e.g. arXiv 2309.13850 and 2401.13875) states
its rates are built from `voronoi_cells` and `align`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, OptimizeResult, minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

Array = NDArray[np.float64]

_MAX_LOG_TEMPERATURE = 4.0
# A search that leans on a jump of the likelihood, where two experts swap, would go on in ever smaller steps.
_STALLED_STEPS, _STALLED_GAIN = 30, 1e-9


# -------------------------------------------------------------------------------- parameters and gates


@dataclass(frozen=True, eq=False)
class GaussianMoEParameters:
    """Parameters of a Gaussian mixture of k experts on R^d.

    Arguments:
        gate_weights: (k, d), beta_1.
        gate_biases: (k,), beta_0.
        expert_weights: (k, d), a.
        expert_biases: (k,), b.
        variances: (k,), nu, positive; variances and not standard deviations.
        temperature: tau, positive.

    Lists are converted; the arrays are copied and read-only.

    Raises ValueError naming the field whose shape, finiteness or sign is wrong.

    >>> truth = GaussianMoEParameters(
    ...     gate_weights=[[2.0], [0.0]], gate_biases=[0.0, 0.0],
    ...     expert_weights=[[1.0], [-1.0]], expert_biases=[0.0, 3.0], variances=[0.1, 0.2])
    >>> truth.n_experts, truth.n_features, truth.masses.tolist()
    (2, 1, [1.0, 1.0])
    """

    gate_weights: Array
    gate_biases: Array
    expert_weights: Array
    expert_biases: Array
    variances: Array
    temperature: float = 1.0

    def __post_init__(self) -> None:
        shape = np.shape(self.gate_weights)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"gate_weights must have shape (n_experts, n_features), got {shape}")
        for name in ("gate_weights", "gate_biases", "expert_weights", "expert_biases", "variances"):
            value = np.array(getattr(self, name), dtype=np.float64)
            expected = shape if name.endswith("weights") else shape[:1]
            if value.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite, got {value.tolist()}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if not (self.variances > 0).all():
            raise ValueError(f"variances must be positive, got {self.variances.tolist()}")
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")

    @property
    def n_experts(self) -> int:
        return len(self.gate_biases)

    @property
    def n_features(self) -> int:
        return int(self.gate_weights.shape[1])

    @property
    def masses(self) -> Array:
        """(k,), ``exp(beta_0 / tau)``: the weights of the mixing measure's atoms."""
        return np.exp(self.gate_biases / self.temperature)


class Gate:
    """How inputs become gate logits: ``(s(x.beta_1) + beta_0) / tau`` for the experts selected at x.

    A gate of one's own overrides `activate`, the activation s, or `select`, the selection, or both.
    """

    shift_invariant: bool = True
    """Whether adding one vector to all rows of the gate weights changes nothing."""

    learns_temperature: bool = False
    """Whether `fit_gaussian_moe` estimates tau unless told otherwise."""

    def activate(self, scores: Array) -> tuple[Array, Array]:
        """The activation and its derivative at the scores ``x.beta_1``, all (n, k)."""
        return scores, np.ones_like(scores)

    def select(self, scores: Array, biases: Array) -> NDArray[np.bool_] | None:
        """Which experts are selected, (n, k), given scores (n, k) and biases (k,); None for all."""
        return None

    def logits(self, X: ArrayLike, parameters: GaussianMoEParameters) -> Array:
        """Gate logits, (n, k), for inputs X, (n, d); -inf where an expert is not selected."""
        X = _checked_inputs(X, parameters)
        return self._logits_and_slopes(X @ parameters.gate_weights.T, parameters)[0]

    def _logits_and_slopes(
        self, scores: Array, parameters: GaussianMoEParameters | _Coordinates
    ) -> tuple[Array, Array]:
        """Logits and the derivative of ``tau * logits`` in the scores."""
        values, slopes = self.activate(scores)
        logits = (values + parameters.gate_biases) / parameters.temperature
        selected = self.select(scores, parameters.gate_biases)
        if selected is not None:
            logits[~selected] = -np.inf
        return logits, slopes


class SoftmaxGate(Gate):
    """The dense gate: all experts, ``logits = (X gate_weights^T + gate_biases) / temperature``."""


def _checked_inputs(X: ArrayLike, parameters: GaussianMoEParameters) -> Array:
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != parameters.n_features:
        raise ValueError(f"X must have shape (n, {parameters.n_features}), got {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError("X must be finite, got NaN or infinity in it")
    return X


def _checked_outputs(y: ArrayLike, X: Array) -> Array:
    y = np.ascontiguousarray(y, dtype=np.float64)
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must have shape {X.shape[:1]}, one number for each row of X, got {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("y must be finite, got NaN or infinity in it")
    return y


# ----------------------------------------------------------------------------- density, scores, samples


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _weigh_experts(
    X: Array,
    y: Array,
    logits: Array,
    row: int,
    expert_weights: Array,
    expert_biases: Array,
    precisions: Array,
    gates: Array,
    residuals: Array,
    responsibilities: Array,
    slot: int,
) -> float:
    """The log density at one sample; fills in row `slot` of what it is made of, (…, k).

    It is given whole arrays and the row because numba counts references for every slice.
    """
    k, d = expert_weights.shape
    top_gate, top_joint = -np.inf, -np.inf
    for i in range(k):
        residual = y[row] - expert_biases[i]
        for c in range(d):
            residual -= expert_weights[i, c] * X[row, c]
        residuals[slot, i] = residual
        joint = logits[row, i] - 0.5 * precisions[i] * residual * residual
        responsibilities[slot, i] = joint
        top_gate, top_joint = max(top_gate, logits[row, i]), max(top_joint, joint)
    gate_sum, joint_sum = 0.0, 0.0
    for i in range(k):
        if logits[row, i] == -np.inf:
            gates[slot, i] = responsibilities[slot, i] = 0.0
            continue
        gates[slot, i] = np.exp(logits[row, i] - top_gate)
        responsibilities[slot, i] = np.exp(responsibilities[slot, i] - top_joint) * np.sqrt(precisions[i])
        gate_sum += gates[slot, i]
        joint_sum += responsibilities[slot, i]
    for i in range(k):
        gates[slot, i] /= gate_sum
        responsibilities[slot, i] /= joint_sum
    return top_joint - top_gate + np.log(joint_sum / gate_sum) - 0.5 * np.log(2 * np.pi)  # type: ignore[no-any-return]


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _weigh_all(
    X: Array,
    y: Array,
    logits: Array,
    expert_weights: Array,
    expert_biases: Array,
    variances: Array,
) -> tuple[Array, Array, Array, Array]:
    gates, residuals, responsibilities = (
        np.empty(logits.shape),
        np.empty(logits.shape),
        np.empty(logits.shape),
    )
    log_density = np.empty_like(y)
    precisions = 1 / variances
    for row in range(len(y)):
        log_density[row] = _weigh_experts(
            X,
            y,
            logits,
            row,
            expert_weights,
            expert_biases,
            precisions,
            gates,
            residuals,
            responsibilities,
            row,
        )
    return log_density, gates, residuals, responsibilities


class _Terms(NamedTuple):
    """What all that follows is made of: (n,) the first, (n, k) the others."""

    log_density: Array
    gates: Array
    residuals: Array
    responsibilities: Array
    logits: Array
    slopes: Array


def _terms(X: Array, y: Array, parameters: GaussianMoEParameters, gate: Gate) -> _Terms:
    logits, slopes = gate._logits_and_slopes(X @ parameters.gate_weights.T, parameters)
    # Copies, because numba would compile anew for arrays that are read-only.
    experts = (parameters.expert_weights, parameters.expert_biases, parameters.variances)
    return _Terms(*_weigh_all(X, y, logits, *(part.copy() for part in experts)), logits, slopes)


def gate_probabilities(X: ArrayLike, parameters: GaussianMoEParameters, gate: Gate | None = None) -> Array:
    """Probability of each expert, (n, k), at inputs X, (n, d); `gate` None is the dense `SoftmaxGate`."""
    probabilities: Array = softmax((gate or SoftmaxGate()).logits(X, parameters), axis=1)
    return probabilities


def log_density(
    X: ArrayLike, y: ArrayLike, parameters: GaussianMoEParameters, gate: Gate | None = None
) -> Array:
    """Log density of y, (n,), given the rows of X, (n, d); returns (n,)."""
    X = _checked_inputs(X, parameters)
    return _terms(X, _checked_outputs(y, X), parameters, gate or SoftmaxGate()).log_density


def score_vectors(
    X: ArrayLike, y: ArrayLike, parameters: GaussianMoEParameters, gate: Gate | None = None
) -> Array:
    """Gradient of `log_density` in the parameters, one row for each sample: (n, k (2 d + 3) + 1).

    Columns: ``gate_weights.ravel(), gate_biases, expert_weights.ravel(), expert_biases, variances,
    temperature``. The derivative is taken within the region of the selected experts.
    """
    X = _checked_inputs(X, parameters)
    terms = _terms(X, _checked_outputs(y, X), parameters, gate or SoftmaxGate())
    tau, variances = parameters.temperature, parameters.variances
    by_logit = terms.responsibilities - terms.gates
    by_mean = terms.responsibilities * terms.residuals / variances
    by_variance = (by_mean * terms.residuals - terms.responsibilities) / (2 * variances)
    finite_logits = np.where(np.isneginf(terms.logits), 0.0, terms.logits)

    def times_inputs(by_score: Array) -> Array:
        return (by_score[:, :, None] * X[:, None, :]).reshape(len(X), -1)

    return np.concatenate(
        [
            times_inputs(by_logit * terms.slopes / tau),
            by_logit / tau,
            times_inputs(by_mean),
            by_mean,
            by_variance,
            -(by_logit * finite_logits).sum(axis=1, keepdims=True) / tau,
        ],
        axis=1,
    )


def sample(
    X: ArrayLike,
    parameters: GaussianMoEParameters,
    gate: Gate | None = None,
    seed: int | np.random.Generator | None = None,
) -> tuple[Array, NDArray[np.intp]]:
    """Draw y, (n,), given the rows of X, (n, d), and the index of the expert that it came from, (n,).

    `seed` is an int, a generator (drawn from), or None for a fresh one.
    """
    X = _checked_inputs(X, parameters)
    rng = np.random.default_rng(seed)
    cumulative = gate_probabilities(X, parameters, gate).cumsum(axis=1)
    chosen = (cumulative > cumulative[:, -1:] * rng.random((len(X), 1))).argmax(axis=1)
    means = (X * parameters.expert_weights[chosen]).sum(axis=1) + parameters.expert_biases[chosen]
    return means + np.sqrt(parameters.variances[chosen]) * rng.standard_normal(len(X)), chosen


# ------------------------------------------------------------------------------------ maximum likelihood


class _Coordinates(NamedTuple):
    """Views of one vector of all that a fit moves."""

    gate_weights: Array
    gate_biases: Array
    expert_weights: Array
    expert_biases: Array
    log_variances: Array
    log_temperature: Array

    @property
    def temperature(self) -> float:
        return float(np.exp(self.log_temperature[0]))

    def parameters(self) -> GaussianMoEParameters:
        return GaussianMoEParameters(*self[:4], np.exp(self.log_variances), self.temperature)


def _views(vector: Array, n_experts: int) -> _Coordinates:
    k = n_experts
    n_weights = (len(vector) - 3 * k - 1) // 2
    gate, experts = vector[: n_weights + k], vector[n_weights + k :]
    return _Coordinates(
        gate_weights=gate[:n_weights].reshape(k, -1),
        gate_biases=gate[n_weights:],
        expert_weights=experts[:n_weights].reshape(k, -1),
        expert_biases=experts[n_weights : n_weights + k],
        log_variances=experts[n_weights + k : -1],
        log_temperature=experts[-1:],
    )


def _vector(parameters: GaussianMoEParameters) -> Array:
    return np.concatenate(
        [
            parameters.gate_weights.ravel(),
            parameters.gate_biases,
            parameters.expert_weights.ravel(),
            parameters.expert_biases,
            np.log(parameters.variances),
            [np.log(parameters.temperature)],
        ]
    )


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _accumulate(
    X: Array,
    y: Array,
    logits: Array,
    slopes: Array,
    expert_weights: Array,
    expert_biases: Array,
    log_variances: Array,
    by_gate_weights: Array,
    by_gate_biases: Array,
    by_expert_weights: Array,
    by_expert_biases: Array,
    by_log_variances: Array,
    by_log_temperature: Array,
) -> float:
    """The summed log density; adds its gradient, that of the gate in units of 1 / tau, to the `by_` arrays.

    One pass over the samples, without any further array of size (n, k).
    """
    n, k = logits.shape
    d = X.shape[1]
    precisions = np.exp(-log_variances)
    gates, residuals, responsibilities = np.empty((1, k)), np.empty((1, k)), np.empty((1, k))
    total = 0.0
    for row in range(n):
        total += _weigh_experts(
            X,
            y,
            logits,
            row,
            expert_weights,
            expert_biases,
            precisions,
            gates,
            residuals,
            responsibilities,
            0,
        )
        for i in range(k):
            if logits[row, i] == -np.inf:
                continue
            responsibility = responsibilities[0, i]
            by_logit = responsibility - gates[0, i]
            by_score = by_logit * slopes[row, i]
            by_mean = responsibility * residuals[0, i] * precisions[i]
            for c in range(d):
                by_gate_weights[i, c] += by_score * X[row, c]
                by_expert_weights[i, c] += by_mean * X[row, c]
            by_gate_biases[i] += by_logit
            by_expert_biases[i] += by_mean
            by_log_variances[i] += 0.5 * (by_mean * residuals[0, i] - responsibility)
            by_log_temperature[0] -= by_logit * logits[row, i]
    return total


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """The mean log-likelihood of one data set as a function of the coordinates' vector, and its EM step."""

    X: Array
    y: Array
    gate: Gate
    n_experts: int

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """The value and its gradient."""
        at = _views(vector, self.n_experts)
        logits, slopes = self.gate._logits_and_slopes(self.X @ at.gate_weights.T, at)
        gradient = np.zeros_like(vector)
        by = _views(gradient, self.n_experts)
        total = _accumulate(
            self.X,
            self.y,
            logits,
            slopes,
            at.expert_weights,
            at.expert_biases,
            at.log_variances,
            *by,
        )
        by.gate_weights[:] /= at.temperature
        by.gate_biases[:] /= at.temperature
        return total / len(self.y), gradient / len(self.y)

    def natural_units(self, vector: Array) -> Array:
        """How far each coordinate moves for one unit of its score's deviation, from at most 2000 samples.

        Measured so, the coordinates are alike, and a quasi-Newton search takes half as many steps.
        """
        rows = slice(None, None, -(-len(self.y) // 2000))
        parameters = _views(vector, self.n_experts).parameters()
        scores = score_vectors(self.X[rows], self.y[rows], parameters, self.gate)
        information: Array = np.mean(scores**2, axis=0)
        by = _views(information, self.n_experts)
        by.log_variances[:] *= parameters.variances**2
        by.log_temperature[:] *= parameters.temperature**2
        units: Array = 1 / np.sqrt(np.maximum(information, max(1e-4 * information.max(), 1e-12)))
        return units

    def expectation_maximisation(self, vector: Array, value: float, bounds: Bounds) -> tuple[Array, float]:
        """One step: exact in the experts, one Newton step in the gate; never to a lower value."""
        at = _views(vector, self.n_experts)
        terms = _terms(self.X, self.y, at.parameters(), self.gate)
        experts = vector.copy()
        self._update_experts(_views(experts, self.n_experts), terms.responsibilities)
        step = np.zeros_like(vector)
        n_gate = self.n_experts * (self.X.shape[1] + 1)
        in_gate = np.flatnonzero((bounds.lb < bounds.ub)[:n_gate])
        step[in_gate] = self._gate_step(terms, at.temperature, in_gate)
        for size in (*0.5 ** np.arange(8), 0.0):
            moved = np.clip(experts + size * step, bounds.lb, bounds.ub)
            moved_value, _ = self(moved)
            if moved_value >= value:
                return moved, moved_value
        return vector, value

    def _update_experts(self, at: _Coordinates, responsibilities: Array) -> None:
        """Weighted least squares and weighted residual variances; experts without weight stay."""
        weights = responsibilities.sum(axis=0)
        used = weights > 1e-8
        r = responsibilities[:, used]
        Z = np.column_stack([self.X, np.ones(len(self.X))])
        normal = (r.T[:, None, :] * Z.T) @ Z
        moments = (r * self.y[:, None]).T @ Z
        lines = np.einsum("kij,kj->ki", np.linalg.pinv(normal, hermitian=True, rcond=1e-12), moments)
        squares = (r * (self.y[:, None] - Z @ lines.T) ** 2).sum(axis=0)
        at.expert_weights[used], at.expert_biases[used] = lines[:, :-1], lines[:, -1]
        # An expert that meets its samples exactly has variance 0, whose logarithm the bounds cannot mend.
        at.log_variances[used] = np.log(np.maximum(squares / weights[used], np.finfo(float).tiny))

    def _gate_step(self, terms: _Terms, temperature: float, in_gate: NDArray[np.intp]) -> Array:
        """Newton (Gauss-Newton for an activation) step of the free gate weights and biases."""
        n, k = terms.logits.shape
        d = self.X.shape[1]
        by_weight = (terms.slopes[:, :, None] * self.X[:, None, :]).reshape(n, -1)
        jacobian = np.column_stack([by_weight, np.ones((n, k))])[:, in_gate] / temperature
        owner = np.concatenate([np.repeat(np.arange(k), d), np.arange(k)])[in_gate]
        weighted = jacobian * terms.gates[:, owner]
        same_expert = owner[:, None] == owner
        information = same_expert * (weighted.T @ jacobian) - weighted.T @ weighted
        gradient = (jacobian * (terms.responsibilities - terms.gates)[:, owner]).sum(axis=0)
        step: Array = np.linalg.pinv(information, hermitian=True, rcond=1e-10) @ gradient
        return step


@dataclass(frozen=True, eq=False)
class GaussianMoEFit:
    """A local maximum of the likelihood and the way to it.

    `log_likelihood` is the mean over samples, `trace` holds it at the start and after each of the `n_iter`
    accepted steps. `converged` says whether the mean's projected gradient ended with no entry above `tol` or
    1e-6, whichever is larger: somewhat below, rounding of the likelihood decides where a search ends.
    """

    parameters: GaussianMoEParameters
    log_likelihood: float
    n_iter: int
    converged: bool
    trace: Array


def fit_gaussian_moe(
    X: ArrayLike,
    y: ArrayLike,
    initial: GaussianMoEParameters,
    gate: Gate | None = None,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    n_em: int = 5,
    bound: float = 50.0,
    variance_bounds: tuple[float, float] = (1e-4, 1e4),
    learn_temperature: bool | None = None,
) -> GaussianMoEFit:
    """Local maximum-likelihood estimate, from `initial`: EM steps, then L-BFGS-B with the exact gradient.

    The last gate bias stays as it is and, where the gate is shift-invariant, the last row of gate weights
    too: the density does not depend on them.

    Arguments:
        X, y: (n, d) and (n,).
        initial: where to start; its number of experts is that of the fit.
        gate: None is the dense `SoftmaxGate`.
        max_iter: most L-BFGS-B iterations; they also end when 30 together gain less than 1e-9.
        tol: largest entry of the projected gradient of the mean log-likelihood at which to stop, each
            coordinate in units of its information.
        n_em: EM steps ahead of L-BFGS-B.
        bound: all weights and biases stay within plus and minus this.
        variance_bounds: (low, high); the likelihood has no maximum without a positive low.
        learn_temperature: whether to estimate tau, within exp(-4) and exp(4); None leaves it to the gate.

    Returns:
        A `GaussianMoEFit`, never less likely than `initial`.

    Raises:
        ValueError: bad shapes, values that are not finite, or an `initial` outside the bounds.

    >>> rng = np.random.default_rng(0)
    >>> truth = GaussianMoEParameters([[4.0], [0.0]], [0.0, 0.0], [[1.0], [-1.0]], [0.0, 3.0], [0.1, 0.2])
    >>> X = rng.uniform(-1, 1, (500, 1))
    >>> y, _ = sample(X, truth, seed=rng)
    >>> fit = fit_gaussian_moe(X, y, truth)
    >>> fit.converged, bool(fit.log_likelihood >= log_density(X, y, truth).mean())
    (True, True)
    """
    X = _checked_inputs(X, initial)
    y = _checked_outputs(y, X)
    if len(X) == 0:
        raise ValueError("X must have at least one row, got none")
    gate = gate or SoftmaxGate()
    if learn_temperature is None:
        learn_temperature = gate.learns_temperature
    vector = _vector(initial)
    bounds = _bounds(initial, gate, bound, variance_bounds, learn_temperature)
    if ((vector < bounds.lb) | (vector > bounds.ub)).any():
        raise ValueError(
            f"initial must lie within bound={bound} and variance_bounds={variance_bounds}, got {initial}"
        )

    likelihood = _Likelihood(X, y, gate, initial.n_experts)
    value, _ = likelihood(vector)
    trace = [value]
    for _ in range(n_em):
        vector, value = likelihood.expectation_maximisation(vector, value, bounds)
        trace.append(value)

    units = likelihood.natural_units(vector)

    def objective(point: Array) -> tuple[float, Array]:
        value, gradient = likelihood(point * units)
        return -value, -gradient * units

    def record(intermediate_result: OptimizeResult) -> None:
        trace.append(-float(intermediate_result.fun))
        steps = trace[n_em:]
        if len(steps) > _STALLED_STEPS and steps[-1] - steps[-1 - _STALLED_STEPS] < _STALLED_GAIN:
            raise StopIteration

    result = minimize(
        objective,
        vector / units,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(bounds.lb / units, bounds.ub / units),
        callback=record,
        options={"maxiter": max_iter, "maxfun": 20 * max_iter, "ftol": 1e-14, "gtol": tol, "maxcor": 30},
    )
    # Exactly the bounds where a bound holds, and the fixed coordinates as they were.
    vector = np.clip(result.x * units, bounds.lb, bounds.ub)
    projected_gradient = vector - np.clip(vector - result.jac / units, bounds.lb, bounds.ub)
    return GaussianMoEFit(
        parameters=_views(vector, initial.n_experts).parameters(),
        log_likelihood=trace[-1],
        n_iter=len(trace) - 1,
        converged=bool(np.abs(projected_gradient).max() <= max(tol, 1e-6)),
        trace=np.array(trace),
    )


def _bounds(
    initial: GaussianMoEParameters,
    gate: Gate,
    bound: float,
    variance_bounds: tuple[float, float],
    learn_temperature: bool,
) -> Bounds:
    """How far each coordinate may move; those that the density does not need may not."""
    low, high = variance_bounds
    if not bound > 0:
        raise ValueError(f"bound must be positive, got {bound}")
    if not 0 < low < high:
        raise ValueError(f"variance_bounds must be (low, high) with 0 < low < high, got {variance_bounds}")
    start = _vector(initial)
    ends = np.full((2, len(start)), [[-bound], [bound]])
    lower, upper, fixed = (_views(vector, initial.n_experts) for vector in (*ends, start))
    lower.log_variances[:], upper.log_variances[:] = np.log(low), np.log(high)
    lower.log_temperature[:], upper.log_temperature[:] = -_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE
    for end in (lower, upper):
        end.gate_biases[-1] = fixed.gate_biases[-1]
        if gate.shift_invariant:
            end.gate_weights[-1] = fixed.gate_weights[-1]
        if not learn_temperature:
            end.log_temperature[:] = fixed.log_temperature
    return Bounds(*ends)


class GaussianMoE(RegressorMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Regression by a Gaussian mixture of experts, fitted by maximum likelihood from several starts.

    Each start draws k points and fits a line to the samples around each; its gate weights are random and its
    experts balanced. The fit measures each feature and y in units of its standard deviation (for that the
    features are divided, not centred: a gate that selects by ``x.beta_1`` would change), so that `bound`
    and the starts mean the same for all data; the parameters found are in the units of the data.

    Arguments:
        n_experts: k.
        gate: a `Gate`; None is the dense `SoftmaxGate`.
        n_init: number of starts, of which the likeliest fit is kept.
        max_iter, tol, bound: see `fit_gaussian_moe`.
        random_state: an int, a `numpy.random.RandomState` or None.

    Attributes:
        parameters_: `GaussianMoEParameters`.
        log_likelihood_: mean over the samples.
        n_iter_: steps of the fit that was kept.
        gate_: the gate that was used.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (300, 1))
    >>> y = np.abs(X[:, 0]) + 0.05 * rng.standard_normal(300)
    >>> GaussianMoE(2, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        n_experts: int = 2,
        gate: Gate | None = None,
        *,
        n_init: int = 5,
        max_iter: int = 1000,
        tol: float = 1e-9,
        bound: float = 50.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_experts = n_experts
        self.gate = gate
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.bound = bound
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> GaussianMoE:
        """Fit to X, (n, d), and y, (n,). Raises ValueError for bad data or fewer samples than experts."""
        inputs: Array
        outputs: Array
        inputs, outputs = validate_data(self, X, y, dtype=np.float64, order="C", y_numeric=True)
        for name in ("n_experts", "n_init"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        n = len(inputs)
        if n < self.n_experts:
            raise ValueError(f"X must have at least n_experts={self.n_experts} rows, got n_samples = {n}")
        rng = check_random_state(self.random_state)
        self.gate_ = self.gate or SoftmaxGate()
        x_scale, y_scale = (np.where(s > 0, s, 1.0) for s in (inputs.std(axis=0), outputs.std()))
        y_mean = outputs.mean()
        scaled_X, scaled_y = inputs / x_scale, (outputs - y_mean) / y_scale
        fits = [
            fit_gaussian_moe(
                scaled_X,
                scaled_y,
                _random_start(scaled_X, scaled_y, self.n_experts, self.gate_, self.bound, rng),
                self.gate_,
                max_iter=self.max_iter,
                tol=self.tol,
                bound=self.bound,
                variance_bounds=_SCALED_VARIANCE_BOUNDS,
            )
            for _ in range(self.n_init)
        ]
        best = max(fits, key=lambda fit: fit.log_likelihood)
        found = best.parameters
        self.parameters_ = GaussianMoEParameters(
            gate_weights=found.gate_weights / x_scale,
            gate_biases=found.gate_biases,
            expert_weights=found.expert_weights * y_scale / x_scale,
            expert_biases=found.expert_biases * y_scale + y_mean,
            variances=found.variances * y_scale**2,
            temperature=found.temperature,
        )
        self.log_likelihood_ = best.log_likelihood - float(np.log(y_scale))
        self.n_iter_ = best.n_iter
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Conditional mean of y, (n,), at inputs X, (n, d)."""
        X = self._checked(X)
        means = X @ self.parameters_.expert_weights.T + self.parameters_.expert_biases
        mean: Array = (gate_probabilities(X, self.parameters_, self.gate_) * means).sum(axis=1)
        return mean

    def gate_probabilities(self, X: ArrayLike) -> Array:
        """Probability of each expert, (n, k), at inputs X, (n, d)."""
        return gate_probabilities(self._checked(X), self.parameters_, self.gate_)

    def log_density(self, X: ArrayLike, y: ArrayLike) -> Array:
        """Log density of y, (n,), given the rows of X, (n, d)."""
        return log_density(self._checked(X), y, self.parameters_, self.gate_)

    def _checked(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        checked: Array = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        return checked


_SCALED_VARIANCE_BOUNDS = (1e-6, 1e2)


def _random_start(
    X: Array, y: Array, n_experts: int, gate: Gate, bound: float, rng: np.random.RandomState
) -> GaussianMoEParameters:
    n, d = X.shape
    centres = rng.choice(n, n_experts, replace=False)
    n_near = min(n, max(d + 2, n // (3 * n_experts)))
    points = np.column_stack([X, y])
    Z = np.column_stack([X, np.ones(n)])
    lines, variances = np.empty((n_experts, d + 1)), np.empty(n_experts)
    for i, distances in enumerate(cdist(points[centres], points)):
        near = np.argpartition(distances, n_near - 1)[:n_near]
        lines[i] = np.linalg.lstsq(Z[near], y[near])[0]
        variances[i] = np.mean((y[near] - Z[near] @ lines[i]) ** 2)
    lines = np.clip(lines, -bound, bound)
    gate_weights = np.clip(2.0 * rng.standard_normal((n_experts, d)), -bound, bound)
    typical_activation = gate.activate(X @ gate_weights.T)[0].mean(axis=0)
    return GaussianMoEParameters(
        gate_weights=gate_weights,
        gate_biases=np.clip(-typical_activation, -bound, bound),
        expert_weights=lines[:, :-1],
        expert_biases=lines[:, -1],
        # A line through all its points would start with a variance from which no other sample is likely.
        variances=np.clip(variances, 1e-2, 1.0),
    )


# ----------------------------------------------------------------------- distances, cells and alignment


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _density(gates: Array, means: Array, variances: Array, y: float) -> float:
    density = 0.0
    for i in range(len(gates)):
        exponent = 0.5 * (y - means[i]) ** 2 / variances[i]
        if exponent < 700.0:
            density += gates[i] * np.exp(-exponent) / np.sqrt(2 * np.pi * variances[i])
    return density


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _mean_distance(
    nodes: Array,
    first_gates: Array,
    first_means: Array,
    first_variances: Array,
    second_gates: Array,
    second_means: Array,
    second_variances: Array,
    hellinger: bool,
) -> float:
    step = nodes[1] - nodes[0]
    total = 0.0
    for row in range(len(first_gates)):
        integral = 0.0
        for j in range(len(nodes)):
            p = _density(first_gates[row], first_means[row], first_variances, nodes[j])
            q = _density(second_gates[row], second_means[row], second_variances, nodes[j])
            # (1 - integral of sqrt(p q)) without the loss of digits where the two are close
            difference = 0.5 * (np.sqrt(p) - np.sqrt(q)) ** 2 if hellinger else 0.5 * abs(p - q)
            at_end = j == 0 or j == len(nodes) - 1
            integral += 0.5 * difference if at_end else difference
        integral *= step
        total += np.sqrt(integral) if hellinger else integral
    return total / len(first_gates)


def density_distance(
    first: GaussianMoEParameters,
    first_gate: Gate | None,
    second: GaussianMoEParameters,
    second_gate: Gate | None,
    X: ArrayLike,
    *,
    metric: Literal["hellinger", "total_variation"] = "hellinger",
    n_nodes: int = 801,
) -> float:
    """Distance of two conditional densities of y, averaged over the rows of X, (n, d).

    "hellinger" is ``sqrt(1 - integral of sqrt(p q))``, "total_variation" is half the integral of ``|p - q|``;
    both lie in [0, 1]. The trapezoid rule has `n_nodes` nodes, which span all means of both models at all
    rows, widened by 8 of the largest standard deviation; a variance much below the span needs more of them.

    Raises ValueError for models of different d, X of another d or empty, or an unknown metric.

    >>> one = GaussianMoEParameters([[0.0]], [0.0], [[0.0]], [0.0], [1.0])
    >>> other = GaussianMoEParameters([[0.0]], [0.0], [[0.0]], [2.0], [1.0])
    >>> round(density_distance(one, None, other, None, [[0.5]]), 4)  # sqrt(1 - exp(-1/2))
    0.6273
    """
    if metric not in ("hellinger", "total_variation"):
        raise ValueError(f"metric must be 'hellinger' or 'total_variation', got {metric!r}")
    if n_nodes < 2:
        raise ValueError(f"n_nodes must be at least 2, got {n_nodes}")
    _check_same_features(first, second)
    X = _checked_inputs(X, first)
    if len(X) == 0:
        raise ValueError("X must have at least one row, got none")
    models = [
        (
            gate_probabilities(X, model, gate),
            X @ model.expert_weights.T + model.expert_biases,
            model.variances.copy(),
        )
        for model, gate in ((first, first_gate), (second, second_gate))
    ]
    widening = 8 * np.sqrt(max(variances.max() for _, _, variances in models))
    low = min(means.min() for _, means, _ in models) - widening
    high = max(means.max() for _, means, _ in models) + widening
    nodes = np.linspace(low, high, n_nodes)
    return float(_mean_distance(nodes, *models[0], *models[1], metric == "hellinger"))


def _check_same_features(first: GaussianMoEParameters, second: GaussianMoEParameters) -> None:
    if first.n_features != second.n_features:
        raise ValueError(
            f"both models must have one number of features, got {first.n_features} and {second.n_features}"
        )


def voronoi_cells(
    fitted: GaussianMoEParameters, true: GaussianMoEParameters, use: Literal["all", "experts"] = "all"
) -> NDArray[np.intp]:
    """Index of the true atom nearest to each fitted atom, (k,).

    Euclidean distance in ``(beta_1, a, b, nu)`` for `use` "all", in ``(a, b, nu)`` for "experts"; the first
    index wins a tie. Raises ValueError for models of different d or an unknown `use`.
    """
    if use not in ("all", "experts"):
        raise ValueError(f"use must be 'all' or 'experts', got {use!r}")
    _check_same_features(fitted, true)

    def atoms(model: GaussianMoEParameters) -> Array:
        experts = (model.expert_weights, model.expert_biases, model.variances)
        return np.column_stack(experts if use == "experts" else (model.gate_weights, *experts))

    cells: NDArray[np.intp] = cdist(atoms(fitted), atoms(true)).argmin(axis=1)
    return cells


def align(
    fitted: GaussianMoEParameters, true: GaussianMoEParameters, gate: Gate | None = None
) -> GaussianMoEParameters:
    """`fitted` with the gate's translation freedom used to come close to `true`; its density is the same.

    One number is added to all gate biases so that the masses sum to those of the truth. For a shift-invariant
    gate one vector is added to all rows of the gate weights: the mean of what separates ``beta_1 / tau`` from
    the truth's, over the atoms that are alone in their cell by experts, over all atoms if there are none.

    Raises ValueError for models of different d.
    """
    cells = voronoi_cells(fitted, true, use="experts")
    tau = fitted.temperature
    bias_shift = tau * (logsumexp(true.gate_biases / true.temperature) - logsumexp(fitted.gate_biases / tau))
    aligned = replace(fitted, gate_biases=fitted.gate_biases + bias_shift)
    if not (gate or SoftmaxGate()).shift_invariant:
        return aligned
    alone = np.bincount(cells, minlength=true.n_experts)[cells] == 1
    chosen = alone if alone.any() else np.ones_like(alone)
    gaps = tau * true.gate_weights[cells] / true.temperature - fitted.gate_weights
    return replace(aligned, gate_weights=fitted.gate_weights + gaps[chosen].mean(axis=0))
