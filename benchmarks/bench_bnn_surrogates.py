"""The surrogates beside what a user would run instead: nn.Module with autograd, gpytorch, plain formulas.

Prints one line a comparison: name, milliseconds (or megabytes) of ours, of the other, ratio. Least of paired
repeats on the same data. Run it with one thread (OMP_NUM_THREADS=1).
"""

import time
from collections.abc import Callable

import torch
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from assay.optimize.bnn_surrogates import (
    DeepKernelSurrogate,
    EnsembleSurrogate,
    HMCSurrogate,
    LaplaceSurrogate,
    _log_marginal,
    _LogPosterior,
    _Network,
    infinite_width_kernel,
)

PRIOR, NOISE = 1.0, 0.1


def report(name: str, ours: float, other: float, unit: str) -> None:
    print(f"{name:<58} {ours:9.3f} {unit} {other:9.3f} {unit}   x{other / ours:.1f}", flush=True)


def compare(
    name: str, ours: Callable[[], object], other: Callable[[], object], calls: int = 1, repeats: int = 5
) -> None:
    seconds = [float("inf"), float("inf")]
    for method in (ours, other):
        method()
    for _ in range(repeats):
        for which, method in enumerate((ours, other)):
            start = time.perf_counter()
            for _ in range(calls):
                method()
            seconds[which] = min(seconds[which], (time.perf_counter() - start) / calls)
    report(name, 1e3 * seconds[0], 1e3 * seconds[1], "ms")


def plain_network(d: int, hidden: tuple[int, ...]) -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for n_in, n_out in zip((d, *hidden), (*hidden, 1), strict=True):
        layers += [torch.nn.Linear(n_in, n_out, dtype=torch.float64), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def plain_log_posterior(network: torch.nn.Module, X: Tensor, Y: Tensor) -> Tensor:
    """Log prior and log likelihood parameter by parameter, as samplers on modules have it."""
    prior = sum((parameter**2).sum() for parameter in network.parameters())
    return -0.5 * ((network(X) - Y) ** 2).sum() / NOISE - 0.5 * prior / PRIOR


def plain_gradient(network: torch.nn.Module, X: Tensor, Y: Tensor) -> list[Tensor]:
    network.zero_grad()
    plain_log_posterior(network, X, Y).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def plain_leapfrog(network: torch.nn.Module, X: Tensor, Y: Tensor, step: float) -> None:
    parameters = list(network.parameters())
    momentum = [torch.randn_like(parameter) for parameter in parameters]
    gradient = plain_gradient(network, X, Y)
    for _ in range(20):
        momentum = [m + 0.5 * step * g for m, g in zip(momentum, gradient, strict=True)]
        for parameter, m in zip(parameters, momentum, strict=True):
            parameter.data += step * m
        gradient = plain_gradient(network, X, Y)
        momentum = [m + 0.5 * step * g for m, g in zip(momentum, gradient, strict=True)]


def plain_ensemble(X: Tensor, Y: Tensor, hidden: tuple[int, ...], steps: int) -> None:
    for _ in range(10):
        network = plain_network(X.shape[1], hidden)
        optimiser = torch.optim.Adam(network.parameters(), maximize=True)
        for _ in range(steps):
            optimiser.zero_grad()
            plain_log_posterior(network, X, Y).backward()
            optimiser.step()


def plain_kernel(X1: Tensor, X2: Tensor, depth: int = 3, w: float = 10.0, b: float = 1.3) -> Tensor:
    """The recursion on every pair of points, expanded to (n1, n2, d)."""
    one = X1.unsqueeze(-2).expand(*X1.shape[:-1], len(X2), X1.shape[-1])
    two = X2.unsqueeze(-3).expand_as(one)

    def kernel(layer: int, left: Tensor, right: Tensor) -> Tensor:
        if layer == 0:
            return b + w * (left * right).sum(-1) / left.shape[-1]
        cross = kernel(layer - 1, left, right)
        norm = (kernel(layer - 1, left, left) * kernel(layer - 1, right, right)).sqrt()
        cosine = (cross / norm).clamp(-1 + 1e-7, 1 - 1e-7)
        angle = cosine.acos()
        return b + w / (2 * torch.pi) * norm * (angle.sin() + (torch.pi - angle) * cosine)

    return kernel(depth, one, two)


def plain_laplace(network: torch.nn.Module, X: Tensor) -> None:
    """Jacobians in memory, sample by sample; the n x n form of the covariance."""
    rows = []
    for x in X:
        network.zero_grad()
        network(x).backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    A = torch.stack(rows)
    torch.linalg.cholesky(A @ A.T + NOISE / PRIOR * torch.eye(len(A)))


def largest_allocation(function: Callable[[], object]) -> float:
    """Megabytes of the largest tensor that is made."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    return max(event.cpu_memory_usage for event in trace.events()) / 2**20


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    for hidden, n in (((32, 32), 40), ((128, 128, 128), 40), ((128, 128, 128), 200)):
        X, Y = rand(n, 6), rand(n, 1)
        network = _Network((6, *hidden, 1), "tanh")
        posterior = _LogPosterior(network, X[None], Y[None], PRIOR, NOISE)
        theta, module = network.draw_initial(1, generator)[0], plain_network(6, hidden)
        compare(
            f"gradient, {'x'.join(map(str, hidden))}, n={n}: nn.Module and autograd",
            lambda p=posterior, t=theta: p.value_and_gradient(t),
            lambda m=module, X=X, Y=Y: plain_gradient(m, X, Y),
            calls=300,
        )

    X, Y = rand(40, 6), rand(40, 1)
    module = plain_network(6, (32, 32))
    ours = HMCSurrogate(
        hidden=(32, 32), n_samples=50, n_burn_in=0, step_size=1e-3, path_length=0.02, pretrain_steps=0, seed=0
    )
    compare(
        "HMC, 50 proposals of 20 leapfrog steps: nn.Module",
        lambda: ours.fit(X, Y),
        lambda: [plain_leapfrog(module, X, Y, 1e-3) for _ in range(50)],
        repeats=3,
    )
    compare(
        "ensemble of 10, 200 steps of Adam: nn.Module one by one",
        lambda: EnsembleSurrogate(hidden=(32, 32), train_steps=200, subset_fraction=1.0, seed=0).fit(X, Y),
        lambda: plain_ensemble(X, Y, (32, 32), 200),
        repeats=3,
    )
    process = DeepKernelSurrogate(hidden=(32, 32), pretrain_steps=1, train_steps=1, seed=0).fit(X, Y)._process
    process.train()
    parameters, likelihood = (
        list(process.parameters()),
        ExactMarginalLogLikelihood(process.likelihood, process),
    )
    compare(
        "deep kernel, gradient of the marginal likelihood: gpytorch",
        lambda: torch.autograd.grad(_log_marginal(process), parameters),
        lambda: torch.autograd.grad(likelihood(process(X), process.train_targets), parameters),
        calls=20,
    )
    X, Y = rand(200, 6), rand(200, 1)
    laplace = LaplaceSurrogate(hidden=(128, 128, 128), train_steps=1000, seed=0)
    start = time.perf_counter()
    laplace.fit(X, Y)
    print(f"{'Laplace, 34k parameters, n=200, fit with 1000 steps':<58} {time.perf_counter() - start:9.3f} s")
    module = plain_network(6, (128, 128, 128))
    compare(
        "Laplace, 34k parameters, n=200, covariance: Jacobian rows",
        lambda: _factor(laplace, X),
        lambda: plain_laplace(module, X),
        repeats=3,
    )
    X = rand(200, 200)
    compare(
        "infinite-width kernel, n=200, d=200: expanded to n x n x d",
        lambda: infinite_width_kernel(X, X),
        lambda: plain_kernel(X, X),
        repeats=2,
    )
    report(
        "  the largest tensor that it makes",
        largest_allocation(lambda: infinite_width_kernel(X, X)),
        largest_allocation(lambda: plain_kernel(X, X)),
        "MB",
    )


def _factor(laplace: LaplaceSurrogate, X: Tensor) -> Tensor:
    from assay.optimize.bnn_surrogates import _tangent_kernel

    features = laplace._network.linearise(laplace._parameters_at_mode, 2 * X - 1)[1]
    gram = _tangent_kernel(features, features)
    gram.diagonal().add_(NOISE / PRIOR)
    return torch.linalg.cholesky(gram)


if __name__ == "__main__":
    main()
