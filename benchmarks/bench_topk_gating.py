"""Fits of top-K gated experts beside what a user would run instead: EM in loops over samples, plain NumPy.

Each line: what is compared, the least seconds of both over paired repeats, and their ratio.
"""

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from assay.gating import GaussianMoEParameters, TopKGate, fit_gaussian_moe, log_density, sample
from assay.gating.gaussian_moe import _Likelihood, _vector

Array = NDArray[np.float64]

TRUTH = GaussianMoEParameters(
    gate_weights=np.array([[3.0], [0.0], [-3.0]]),
    gate_biases=np.array([0.5, -0.3, 0.0]),
    expert_weights=np.array([[2.0], [-1.0], [3.0]]),
    expert_biases=np.array([1.0, -2.0, 2.0]),
    variances=np.array([0.2, 0.3, 0.25]),
)
TOP_K = 2


def loop_expectation(X: Array, y: Array, at: GaussianMoEParameters) -> tuple[Array, Array, float]:
    """Gate probabilities, responsibilities and mean log-likelihood, one sample and one expert at a time."""
    n, k = len(y), at.n_experts
    gates, responsibilities, total = np.zeros((n, k)), np.zeros((n, k)), 0.0
    gate_weights, gate_biases = at.gate_weights.tolist(), at.gate_biases.tolist()
    weights, biases, variances = at.expert_weights.tolist(), at.expert_biases.tolist(), at.variances.tolist()
    inputs, outputs = X.tolist(), y.tolist()
    for row in range(n):
        x = inputs[row]
        scores = [sum(w * c for w, c in zip(gate_weights[i], x, strict=True)) for i in range(k)]
        chosen = sorted(range(k), key=lambda i: -scores[i])[:TOP_K]
        exponentials = [math.exp(scores[i] + gate_biases[i]) for i in chosen]
        joints = []
        for i, exponential in zip(chosen, exponentials, strict=True):
            gates[row, i] = exponential / sum(exponentials)
            residual = outputs[row] - sum(w * c for w, c in zip(weights[i], x, strict=True)) - biases[i]
            normal = math.exp(-0.5 * residual**2 / variances[i]) / math.sqrt(2 * math.pi * variances[i])
            joints.append(gates[row, i] * normal)
        for i, joint in zip(chosen, joints, strict=True):
            responsibilities[row, i] = joint / sum(joints)
        total += math.log(sum(joints))
    return gates, responsibilities, total / n


def loop_em(X: Array, y: Array, at: GaussianMoEParameters, target: float, most_steps: int) -> float:
    """EM with that expectation step, until the mean log-likelihood is within 1e-9 of the target.

    The maximisation step is given NumPy: weighted least squares, and one Newton step of the gate.
    """
    k, d = at.gate_weights.shape
    Z = np.column_stack([X, np.ones(len(X))])
    for _ in range(most_steps):
        gates, r, value = loop_expectation(X, y, at)
        if value > target - 1e-9:
            break
        lines = np.stack([np.linalg.solve((Z.T * r[:, i]) @ Z, Z.T @ (r[:, i] * y)) for i in range(k)])
        variances = (r * (y[:, None] - Z @ lines.T) ** 2).sum(axis=0) / r.sum(axis=0)
        weighted = (gates[:, :-1, None] * Z[:, None, :]).reshape(len(X), -1)
        information = -weighted.T @ weighted
        for i in range(k - 1):
            block = slice(i * (d + 1), (i + 1) * (d + 1))
            information[block, block] += (Z.T * gates[:, i]) @ Z
        gradient = ((r - gates)[:, :-1, None] * Z[:, None, :]).sum(axis=0).ravel()
        step = np.zeros((k, d + 1))
        step[:-1] = np.linalg.solve(information, gradient).reshape(k - 1, d + 1)
        at = GaussianMoEParameters(
            gate_weights=at.gate_weights + step[:, :-1],
            gate_biases=at.gate_biases + step[:, -1],
            expert_weights=lines[:, :-1],
            expert_biases=lines[:, -1],
            variances=variances,
        )
    return value


def numpy_likelihood(X: Array, y: Array, at: GaussianMoEParameters) -> tuple[float, list[Array]]:
    """Mean log-likelihood and gradient, vectorised: matrices (n, k) for all that the experts differ in."""
    n = len(y)
    scores = X @ at.gate_weights.T
    dropped = np.argpartition(-scores, TOP_K - 1, axis=1)[:, TOP_K:]
    logits = scores + at.gate_biases
    np.put_along_axis(logits, dropped, -np.inf, axis=1)
    residuals = y[:, None] - X @ at.expert_weights.T - at.expert_biases
    joint = logits - 0.5 * (residuals**2 / at.variances + np.log(2 * np.pi * at.variances))
    gate_top, joint_top = logits.max(axis=1, keepdims=True), joint.max(axis=1, keepdims=True)
    gates, r = np.exp(logits - gate_top), np.exp(joint - joint_top)
    gate_sum, joint_sum = gates.sum(axis=1, keepdims=True), r.sum(axis=1, keepdims=True)
    gates /= gate_sum
    r /= joint_sum
    value = float(np.mean(joint_top - gate_top + np.log(joint_sum / gate_sum)))
    by_logit, by_mean = r - gates, r * residuals / at.variances
    by_log_variance = 0.5 * (by_mean * residuals - r)
    parts = (by_logit.T @ X, by_logit.sum(0), by_mean.T @ X, by_mean.sum(0), by_log_variance.sum(0))
    return value, [part.ravel() / n for part in parts]


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    least = [math.inf, math.inf]
    for _ in range(repeats):
        for i, run in enumerate((ours, other)):
            start = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - start)
    print(f"{name:<66} {least[0]:9.5f} s {least[1]:9.5f} s   other / ours {least[1] / least[0]:7.1f}")


def main() -> None:
    rng = np.random.default_rng(0)
    gate = TopKGate(TOP_K)
    print("2 of 3 experts selected, one feature; seconds of ours, seconds of the other, their ratio")

    X = rng.uniform(-1, 1, (2000, 1))
    y, _ = sample(X, TRUTH, gate, seed=rng)
    start = GaussianMoEParameters(
        gate_weights=TRUTH.gate_weights + 0.3 * rng.standard_normal((3, 1)),
        gate_biases=TRUTH.gate_biases + 0.3 * rng.standard_normal(3),
        expert_weights=TRUTH.expert_weights + 0.3 * rng.standard_normal((3, 1)),
        expert_biases=TRUTH.expert_biases + 0.3 * rng.standard_normal(3),
        variances=np.full(3, 0.5),
    )
    target = fit_gaussian_moe(X, y, start, gate).log_likelihood
    assert np.isclose(loop_expectation(X, y, TRUTH)[2], log_density(X, y, TRUTH, gate).mean(), rtol=1e-12)
    compare(
        "density, n = 2000, beside a loop over samples",
        lambda: log_density(X, y, TRUTH, gate),
        lambda: loop_expectation(X, y, TRUTH),
        repeats=5,
    )
    assert loop_em(X, y, start, target, most_steps=1000) > target - 1e-9
    compare(
        "fit, n = 2000, beside EM by loops to within 1e-9 of our likelihood",
        lambda: fit_gaussian_moe(X, y, start, gate),
        lambda: loop_em(X, y, start, target, most_steps=1000),
        repeats=3,
    )
    for n in (2000, 20_000):
        X = rng.uniform(-1, 1, (n, 1))
        y, _ = sample(X, TRUTH, gate, seed=rng)
        likelihood, vector = _Likelihood(X, y, gate, 3), _vector(TRUTH)
        value, gradient = likelihood(vector)
        other_value, other_gradient = numpy_likelihood(X, y, TRUTH)
        np.testing.assert_allclose(value, other_value, rtol=1e-12)
        np.testing.assert_allclose(gradient[:-1], np.concatenate(other_gradient), atol=1e-12)
        compare(
            f"likelihood and gradient, n = {n}, beside plain NumPy",
            lambda likelihood=likelihood, vector=vector: likelihood(vector),
            lambda X=X, y=y: numpy_likelihood(X, y, TRUTH),
            repeats=60,
        )


if __name__ == "__main__":
    main()
