"""Score estimation beside what a user would run instead, paired in one run.

The kernel estimator beside its descent written as a loop; training the network beside autograd in PyTorch and
beside three matrix products a step in NumPy. Prints seconds of ours, seconds of the other and the ratio, each
the least of the repeats. Run it with one thread (OMP_NUM_THREADS=1).
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from assay.diffusion.score_estimation import (
    KernelScoreRegressor,
    NetworkScoreRegressor,
    RegressionData,
    make_regression_data,
    relu_ntk,
)
from assay.diffusion.sde import VPSchedule

RATE, WIDTH, STEPS = 0.5, 2048, 50


def regression(n: int, d: int) -> RegressionData:
    rng = np.random.default_rng(0)
    clean = rng.choice([-1.0, 1.0], (n, d)) + 0.1 * rng.standard_normal((n, d))
    return make_regression_data(clean / np.sqrt(d), VPSchedule(2, 2, t_max=5.0), n, seed=rng)


def inputs_of(data: RegressionData) -> np.ndarray:
    return np.column_stack([data.x_t, data.t - 0.1, np.ones(len(data.t))])


def kernel_closed_form(data: RegressionData, steps: int) -> np.ndarray:
    model = KernelScoreRegressor(n_steps=steps, learning_rate=RATE, radius=1e6).fit_regression(data)
    return model.predict(data.x_t, data.t)


def kernel_loop(data: RegressionData, steps: int) -> np.ndarray:
    kernel = relu_ntk(inputs_of(data), inputs_of(data))
    coefficients = np.zeros_like(data.x_0)
    for _ in range(steps):
        coefficients -= RATE / len(data.t) * (kernel @ coefficients - data.x_0)
    return kernel @ coefficients


def start(width: int, inputs: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], (width // 2, d))
    return np.tile(rng.standard_normal((width // 2, inputs)), (2, 1)), np.concatenate([sign, -sign])


def autograd_training(data: RegressionData, width: int) -> None:
    inputs, labels = torch.from_numpy(inputs_of(data)), torch.from_numpy(data.x_0)
    weight, sign = map(torch.from_numpy, start(width, inputs.shape[1], labels.shape[1]))
    weight.requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        outputs = torch.relu(inputs @ weight.T) @ sign / width**0.5
        (((outputs - labels) ** 2).sum() / (2 * len(labels))).backward()
        optimizer.step()


def numpy_training(data: RegressionData, width: int) -> None:
    inputs, labels = inputs_of(data), data.x_0
    weight, sign = start(width, inputs.shape[1], labels.shape[1])
    for _ in range(STEPS):
        hidden = inputs @ weight.T
        residual = np.maximum(hidden, 0) @ sign / width**0.5 - labels
        pull = (residual @ sign.T) * (hidden > 0)
        weight -= RATE / (len(labels) * width**0.5) * pull.T @ inputs


def seconds_of_steps(data: RegressionData, width: int) -> float:
    """Ours without the eigenvalues, which the others do not compute."""

    def fit(steps: int) -> None:
        NetworkScoreRegressor(
            n_steps=steps, learning_rate=RATE, radius=1e6, width=width, random_state=0
        ).fit_regression(data)

    return timed(lambda: fit(STEPS)) - timed(lambda: fit(0))


def timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def report(name: str, pairs: list[tuple[float, float]]) -> None:
    ours, other = np.min(pairs, axis=0)
    print(f"{name:<46}{ours:9.4f} s {other:9.4f} s   x{other / ours:.1f}", flush=True)


def main() -> None:
    for n in (200, 800):
        data = regression(n, 2)
        closed, loop = kernel_closed_form(data, 100), kernel_loop(data, 100)
        assert np.allclose(closed, loop, atol=1e-8)
        pairs = [
            tuple(timed(lambda d=data, f=f: f(d, 10_000)) for f in (kernel_closed_form, kernel_loop))
            for _ in range(3)
        ]
        report(f"kernel, N={n}: a loop of 10,000 steps", pairs)
    for n, d in ((400, 2), (1600, 2), (1600, 23)):
        data = regression(n, d)
        measured: dict[str, list[tuple[float, float]]] = {"autograd": [], "NumPy": []}
        for _ in range(3):
            ours = seconds_of_steps(data, WIDTH)
            measured["autograd"].append((ours, timed(lambda d=data: autograd_training(d, WIDTH))))
            measured["NumPy"].append((ours, timed(lambda d=data: numpy_training(d, WIDTH))))
        for name, pairs in measured.items():
            report(f"network, N={n}, d={d}: {STEPS} steps by {name}", pairs)


if __name__ == "__main__":
    main()
