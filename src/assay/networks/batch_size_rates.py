"""How mini-batches enlarge the curvature of the loss, the learning rates that follow, and a learner of them.

Granziol, Zohren and Roberts, "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training" (2020, JMLR 2022), arXiv 2006.09092.

The Hessian of a mini-batch is that of all data plus sampling noise, which weakens as the batch grows. Noise
moves the extreme eigenvalues outwards, by an amount that random matrix theory knows, and the largest stable
learning rate goes by the inverse of the largest eigenvalue that the optimiser meets: it grows with the batch
size until the noise is spent. From the same spectra, by stochastic Lanczos quadrature on the batch at hand,
`SpectralRateLearner` sets learning rate and momentum while training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

Curvature = Literal["hessian", "ggn"]
Loss = Callable[[Tensor, Any], Tensor]

_POWER_OF_BATCH = {"sgd": 1.0, "adam": 0.5}


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _require_count(name: str, value: object) -> None:
    _require(isinstance(value, Integral) and int(value) >= 1, name, value, "an integer of at least 1")


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, name, value, "a positive number")


def _require_nonnegative(name: str, value: float) -> None:
    _require(0 <= value < math.inf, name, value, "a number of at least 0")


# ------------------------------------------------------------------------------- extremes of the batch


def effective_batch_size(batch_size: int, n_samples: int | None = None) -> float:
    """Size of an independent batch with as much noise as one drawn without replacement (arXiv 2006.09092).

    The mean over B of N samples, drawn without replacement, has 1 - B/N times the variance of one over B
    independent samples (Granziol, Zohren and Roberts, 2020).

    Arguments:
        batch_size: B, at least 1.
        n_samples: N, at least B; None for independent samples (with replacement, or of endless data).

    Returns:
        ``B / (1 - B/N)``: B itself without `n_samples`, infinity for a batch of all samples.

    Raises:
        ValueError: B is not an integer of at least 1, or exceeds N.

    >>> round(effective_batch_size(25, 100), 4)
    33.3333
    """
    _require_count("batch_size", batch_size)
    if n_samples is None:
        return float(batch_size)
    _require_count("n_samples", n_samples)
    _require(batch_size <= n_samples, "batch_size", batch_size, f"at most n_samples={n_samples}")
    return math.inf if batch_size == n_samples else batch_size * n_samples / (n_samples - batch_size)


def batch_hessian_extreme(
    eigenvalue: float, *, noise_variance: float, batch_size: int, n_samples: int | None = None
) -> float:
    """The extreme eigenvalue of a batch's Hessian that the full Hessian's becomes (arXiv 2006.09092).

    The batch adds symmetric noise with a semicircle spectrum of radius 2 s, ``s² = noise_variance / b``, b
    the effective batch size. An eigenvalue beyond s moves out to ``eigenvalue + s² / eigenvalue``; one within
    s is lost in the noise, whose edge is then the extreme (Granziol, Zohren and Roberts, 2020). The noise is
    taken to be even over directions; where it is concentrated in a few, the extreme is larger.

    Arguments:
        eigenvalue: of the full Hessian: the largest (positive) or the most negative one.
        noise_variance: of one sample's Hessian, as `hessian_noise_variance` measures it.
        batch_size, n_samples: as for `effective_batch_size`.

    Raises:
        ValueError: an eigenvalue of 0, whose sign does not say which end is meant, a negative variance or a
            batch size out of range.

    >>> round(batch_hessian_extreme(2.5, noise_variance=30, batch_size=20), 6)
    3.1
    >>> round(batch_hessian_extreme(2.5, noise_variance=30, batch_size=4), 6)
    5.477226
    """
    _require(math.isfinite(eigenvalue) and eigenvalue != 0, "eigenvalue", eigenvalue, "finite and not 0")
    _require_nonnegative("noise_variance", noise_variance)
    variance = noise_variance / effective_batch_size(batch_size, n_samples)
    radius = math.sqrt(variance)
    if abs(eigenvalue) > radius:
        return eigenvalue + variance / eigenvalue
    return math.copysign(2 * radius, eigenvalue)


def batch_ggn_extreme(
    eigenvalue: float,
    *,
    bulk_variance: float,
    n_parameters: int,
    batch_size: int,
    n_samples: int | None = None,
) -> float:
    """The largest eigenvalue of a batch's generalised Gauss-Newton matrix (GGN) (arXiv 2006.09092).

    That matrix is a mean of positive semi-definite terms, so its noise multiplies, as that of a sample
    covariance. With ``q = n_parameters / b`` and b the effective batch size, an eigenvalue beyond
    ``v (1 + √q)`` moves to ``eigenvalue (1 + q v / (eigenvalue - v))``, any other to the edge of the bulk,
    ``v (1 + √q)²`` (Granziol, Zohren and Roberts, 2020). With `n_samples` this asks for a batch of all
    samples to show the bulk as even: many more samples than parameters, or a batch that is a small part.

    Arguments:
        eigenvalue: the largest of the full matrix, at least 0.
        bulk_variance: v, the bulk's variance in each direction: the trace without outliers over n_parameters.
        n_parameters: number of parameters.
        batch_size, n_samples: as for `effective_batch_size`.

    Raises:
        ValueError: a negative eigenvalue or variance, or a count out of range.

    >>> round(batch_ggn_extreme(3.0, bulk_variance=0.4, n_parameters=200, batch_size=400), 6)
    3.230769
    """
    _require_nonnegative("eigenvalue", eigenvalue)
    _require_nonnegative("bulk_variance", bulk_variance)
    _require_count("n_parameters", n_parameters)
    ratio = n_parameters / effective_batch_size(batch_size, n_samples)
    edge = bulk_variance * (1 + math.sqrt(ratio))
    if eigenvalue > edge:
        return eigenvalue * (1 + ratio * bulk_variance / (eigenvalue - bulk_variance))
    return edge * (1 + math.sqrt(ratio))


# -------------------------------------------------------------------------------------- learning rates


def maximal_learning_rate(eigenvalue: float, *, momentum: float = 0.0) -> float:
    """The learning rate at which gradient descent turns unstable: ``2 (1 + momentum) / eigenvalue``.

    With the extreme of a batch's Hessian it is the largest rate for that batch size (Granziol, Zohren and
    Roberts, 2020, arXiv 2006.09092): linear in small batches, flat in large ones.

    Arguments:
        eigenvalue: the largest curvature, positive.
        momentum: of the heavy ball, in [0, 1).

    Raises:
        ValueError: a curvature that is not positive, or a momentum out of range.

    >>> [
    ...     round(maximal_learning_rate(batch_hessian_extreme(0.5, noise_variance=5, batch_size=b)), 3)
    ...     for b in (40, 400, 4000)
    ... ]
    [2.667, 3.81, 3.98]
    """
    _require_positive("eigenvalue", eigenvalue)
    _require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
    return 2 * (1 + momentum) / eigenvalue


def scale_learning_rate(
    learning_rate: float, *, from_batch: int, to_batch: int, optimizer: Literal["sgd", "adam"] = "sgd"
) -> float:
    """The learning rate for another batch size (Granziol, Zohren and Roberts, 2020, arXiv 2006.09092).

    Arguments:
        learning_rate: that suits batches of `from_batch`, positive.
        from_batch, to_batch: batch sizes.
        optimizer: "sgd" scales with the batch size, "adam" (and its kin) with its square root.

    Raises:
        ValueError: a rate that is not positive, a batch size below 1, or another optimiser.

    >>> scale_learning_rate(0.1, from_batch=128, to_batch=512)
    0.4
    >>> scale_learning_rate(0.1, from_batch=128, to_batch=512, optimizer="adam")
    0.2
    """
    _require_positive("learning_rate", learning_rate)
    _require_count("from_batch", from_batch)
    _require_count("to_batch", to_batch)
    _require(optimizer in _POWER_OF_BATCH, "optimizer", optimizer, "'sgd' or 'adam'")
    scaled: float = learning_rate * (to_batch / from_batch) ** _POWER_OF_BATCH[optimizer]
    return scaled


def optimal_rates(largest: float, smallest: float) -> tuple[float, float]:
    """Learning rate and momentum of the heavy ball that suit curvatures from `smallest` to `largest`.

    On quadratics they contract the error by √momentum a step, as fast as the heavy ball can; used on measured
    spectra by Granziol, Zohren and Roberts (2020, arXiv 2006.09092).

    Raises:
        ValueError: unless ``0 < smallest <= largest``.

    >>> optimal_rates(9.0, 1.0)
    (0.25, 0.25)
    """
    _require_positive("smallest", smallest)
    _require(smallest <= largest < math.inf, "largest", largest, f"finite and at least {smallest=}")
    high, low = math.sqrt(largest), math.sqrt(smallest)
    return (2 / (high + low)) ** 2, ((high - low) / (high + low)) ** 2


# ------------------------------------------------------------------------------------------- curvature


@dataclass(frozen=True, eq=False)
class CurvatureOperator:
    """A curvature matrix that multiplies vectors and is never built; made by `curvature_operator`.

    Called with a vector of shape (dim,), of any dtype and on any device, it returns the product likewise; the
    work is done in the dtype and on the device of the parameters. `loss` is the loss of its batch.
    """

    dim: int
    loss: float
    _parameters: tuple[Tensor, ...] = field(repr=False)
    _product: Callable[[Sequence[Tensor]], Sequence[Tensor | None]] = field(repr=False)

    def __call__(self, vector: Tensor) -> Tensor:
        if vector.shape != (self.dim,):
            raise ValueError(f"vector must have shape ({self.dim},), got {tuple(vector.shape)}")
        pieces = torch.split(vector.detach(), [parameter.numel() for parameter in self._parameters])
        with torch.enable_grad():
            product = self._product(
                [
                    piece.view_as(parameter).to(parameter)
                    for piece, parameter in zip(pieces, self._parameters, strict=True)
                ]
            )
        return torch.cat(
            [
                torch.zeros_like(piece) if part is None else part.detach().reshape(-1).to(vector)
                for piece, part in zip(pieces, product, strict=True)
            ]
        )


def curvature_operator(
    model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any, *, curvature: Curvature = "hessian"
) -> CurvatureOperator:
    """Hessian or generalised Gauss-Newton matrix of a batch's loss, as products with vectors.

    The matrices whose spectra Granziol, Zohren and Roberts (2020, arXiv 2006.09092) study. The batch is
    differentiated once, here; each product then costs one to three gradients. The operator keeps the batch's
    graph for as long as it lives, and is that of the parameters as they were: make a new one after each step.

    Arguments:
        model: called as ``model(inputs)``, in the mode that it is in, on a copy of its buffers. In training
            mode batch norm makes each sample's curvature depend on its batch; take evaluation mode to compare
            batch sizes. Every layer must be twice differentiable by PyTorch.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar, the mean over the batch.
        inputs, targets: the batch.
        curvature: "hessian" or "ggn", ``J' S J`` with J the Jacobian of the outputs and S the loss's Hessian
            in them: positive semi-definite for convex losses, and without the noise of the model's own
            curvature. It asks for a model that returns one tensor.

    Returns:
        An operator over vectors of all parameters that require gradients, flat, in the order of
        ``model.parameters()``; `dim` is their length.

    Raises:
        ValueError: another curvature, a model without parameters, a loss that is not a scalar.

    >>> model = nn.Linear(3, 1, bias=False)
    >>> inputs, targets = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0]])
    >>> hessian = curvature_operator(model, nn.functional.mse_loss, inputs, targets)
    >>> hessian(torch.tensor([1.0, 0.0, 0.0]))
    tensor([2., 4., 0.])
    """
    _require(curvature in get_args(Curvature), "curvature", curvature, "'hessian' or 'ggn'")
    parameters = tuple(parameter for parameter in model.parameters() if parameter.requires_grad)
    if not parameters:
        raise ValueError("model must have parameters that require gradients, got none")
    with torch.enable_grad():
        # On copies, because batch norm in training mode writes its running statistics.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        outputs = torch.func.functional_call(model, buffers, (inputs,))
        # The GGN takes the loss as a function of the outputs alone.
        logits = outputs.detach().requires_grad_() if curvature == "ggn" else outputs
        loss = loss_fn(logits, targets)
        if loss.ndim:
            raise ValueError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}")
        if curvature == "hessian":
            product = _linear_map(_gradient(loss, parameters), parameters)
        else:
            # J' u is linear in u, so its own transposed derivative is J.
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            pulled = torch.autograd.grad(outputs, parameters, cotangent, create_graph=True, allow_unused=True)
            push = _linear_map(pulled, (cotangent,))
            bend = _linear_map(_gradient(loss, (logits,)), (logits,))

            def product(vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
                (direction,) = push(vectors)
                (bent,) = (None,) if direction is None else bend([direction])
                if bent is None:
                    return [None] * len(parameters)
                return torch.autograd.grad(outputs, parameters, bent, retain_graph=True, allow_unused=True)

    return CurvatureOperator(
        sum(parameter.numel() for parameter in parameters), float(loss.detach()), parameters, product
    )


def _gradient(loss: Tensor, variables: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(loss, variables, create_graph=True, allow_unused=True)


def _linear_map(
    values: Sequence[Tensor | None], variables: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], Sequence[Tensor | None]]:
    """The transposed Jacobian of the values in the variables; None stands for zeros, on either side."""

    def apply(cotangents: Sequence[Tensor]) -> Sequence[Tensor | None]:
        # A value that is zero or constant in the variables has no graph.
        pairs = [
            (value, cotangent)
            for value, cotangent in zip(values, cotangents, strict=True)
            if value is not None and value.requires_grad
        ]
        if not pairs:
            return [None] * len(variables)
        outputs, weights = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, variables, weights, retain_graph=True, allow_unused=True)

    return apply


def hessian_noise_variance(
    model: nn.Module,
    loss_fn: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    batch_size: int,
    n_pairs: int = 8,
    curvature: Curvature = "hessian",
    generator: torch.Generator | None = None,
) -> float:
    """Variance of one sample's curvature matrix, as `batch_hessian_extreme` takes it (arXiv 2006.09092).

    ``Σ ||h - H||_F² / ((N - 1) dim)``, with h the matrix of each sample and H that of all: dim times the
    variance of an entry (Granziol, Zohren and Roberts, 2020). Two batches A and B and a random unit vector z
    estimate it without bias by ``b/2 ||(H_A - H_B) z||²``, b the effective batch size, so all samples are
    never needed at once.

    Arguments:
        model, loss_fn, curvature: as for `curvature_operator`.
        inputs, targets: (N, …) the samples from which batches are drawn, without replacement within a batch.
        batch_size: below N. The smaller, the cheaper and the more it tells of one sample.
        n_pairs: over how many pairs of batches the mean is taken; each costs two products of a batch.
        generator: draws batches and vectors; on the CPU.

    Raises:
        ValueError: batch_size outside [1, N - 1], n_pairs below 1, inputs and targets of unequal length.

    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)  # curvatures 2 and 18, variance 128
    >>> model, loss = nn.Linear(1, 1, bias=False), nn.functional.mse_loss
    >>> draw = torch.Generator().manual_seed(0)
    >>> variance = hessian_noise_variance(model, loss, x, y, batch_size=1, n_pairs=400, generator=draw)
    >>> 100 < variance < 160
    True
    """
    n_samples = len(inputs)
    if len(targets) != n_samples:
        raise ValueError(f"targets must be as many as inputs ({n_samples}), got {len(targets)}")
    _require_count("n_pairs", n_pairs)
    _require_count("batch_size", batch_size)
    _require(batch_size < n_samples, "batch_size", batch_size, f"below the number of samples, {n_samples}")
    total = 0.0
    for _ in range(n_pairs):
        vector: Tensor | None = None
        products = []
        for _ in range(2):
            batch = torch.randperm(n_samples, generator=generator)[:batch_size].to(inputs.device)
            operator = curvature_operator(
                model, loss_fn, inputs[batch], targets[batch.to(targets.device)], curvature=curvature
            )
            if vector is None:
                vector = _unit_vector(operator.dim, generator).to(_device(model))
            products.append(operator(vector))
        total += float((products[0] - products[1]).square().sum())
    return effective_batch_size(batch_size, n_samples) / 2 * total / n_pairs


def _device(model: nn.Module) -> torch.device:
    return next(parameter.device for parameter in model.parameters() if parameter.requires_grad)


def _unit_vector(dim: int, generator: torch.Generator | None) -> Tensor:
    device = None if generator is None else generator.device
    return nn.functional.normalize(
        torch.randn(dim, dtype=torch.float64, generator=generator, device=device), dim=0
    )


# -------------------------------------------------------------------------------------------- spectrum


@dataclass(frozen=True, eq=False)
class LanczosSpectrum:
    """Nodes and weights of a quadrature over a spectrum: ``Σ weights · f(ritz_values) ≈ start' f(A) start``.

    `ritz_values` ascend; the outermost are close to the extreme eigenvalues. `weights` are positive and sum
    to 1.
    """

    ritz_values: NDArray[np.float64]
    weights: NDArray[np.float64]


def lanczos_spectrum(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    n_steps: int,
    *,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> LanczosSpectrum:
    """Spectrum of a symmetric matrix by stochastic Lanczos quadrature (arXiv 2006.09092).

    Exact for moments up to degree ``2 n_steps - 1`` of the spectrum as `start` sees it. Every step
    is orthogonalised twice against all before, since lost orthogonality gives eigenvalues that are not there.
    Stops early once the matrix has nothing new to say. Used by Granziol, Zohren and Roberts (2020).

    Arguments:
        matvec: the product of the matrix with a float64 vector of shape (dim,).
        dim: order of the matrix.
        n_steps: number of products, from 1 to dim.
        start: (dim,) first vector, of any length but 0; it also says on which device to work. By default of
            random direction, which weighs all eigenvalues alike on average.
        generator: draws it.

    Raises:
        ValueError: n_steps out of range, a start of another shape, zero or not finite, a product that has
            another shape or is not finite.

    >>> diagonal = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    >>> spectrum = lanczos_spectrum(lambda v: diagonal * v, 3, 3, start=torch.ones(3))
    >>> spectrum.ritz_values.round(6).tolist(), spectrum.weights.round(6).tolist()
    ([1.0, 2.0, 4.0], [0.333333, 0.333333, 0.333333])
    """
    _require_count("dim", dim)
    _require_count("n_steps", n_steps)
    _require(n_steps <= dim, "n_steps", n_steps, f"at most {dim=}")
    if start is None:
        vector = _unit_vector(dim, generator)
    else:
        if start.shape != (dim,):
            raise ValueError(f"start must have shape ({dim},), got {tuple(start.shape)}")
        vector = start.detach().to(torch.float64)
        length = float(vector.norm())
        _require(0 < length < math.inf, "start", length, "a finite vector other than 0; its norm")
        vector = vector / length
    basis = torch.empty(n_steps, dim, dtype=torch.float64, device=vector.device)
    diagonal, off_diagonal = np.zeros(n_steps), np.zeros(n_steps)
    for step in range(n_steps):
        basis[step] = vector
        residual = matvec(vector).to(vector)
        if residual.shape != (dim,):
            raise ValueError(f"matvec must return shape ({dim},), got {tuple(residual.shape)}")
        diagonal[step] = float(vector @ residual)
        if not math.isfinite(diagonal[step]):
            raise ValueError("matvec must return finite numbers, got NaN or infinity")
        past = basis[: step + 1]
        for _ in range(2):
            residual = residual - (past @ residual) @ past
        off_diagonal[step] = float(residual.norm())
        scale = max(np.abs(diagonal).max(), off_diagonal[:step].max(initial=0.0))
        if off_diagonal[step] <= 1e-10 * scale:
            break
        vector = residual / off_diagonal[step]
    ritz_values, vectors = eigh_tridiagonal(diagonal[: step + 1], off_diagonal[:step])
    return LanczosSpectrum(np.asarray(ritz_values, dtype=np.float64), vectors[0] ** 2)


# --------------------------------------------------------------------------------------------- learner


class SpectralRates(NamedTuple):
    """What `SpectralRateLearner` has set, and the curvatures that it took them from (NaN if not finite)."""

    learning_rate: float
    momentum: float
    largest: float
    smallest: float


class SpectralRateLearner:
    """Sets learning rate and momentum of `torch.optim.SGD` while it trains, from the curvature it meets.

    Granziol, Zohren and Roberts (2020, arXiv 2006.09092): a few Lanczos steps on the mini-batch at hand, the
    one that limits the step, give its largest curvature and that of its bulk, and these the rates of the
    heavy ball by `optimal_rates`. `safety` and `max_growth` are additions: those rates are at
    the edge of stability, and curvature rises in the first epochs.

    Arguments:
        optimizer: plain SGD, whose rates are overwritten, the same in every parameter group; its present
            learning rate is where growth starts. Weight decay is no part of the curvature.
        n_lanczos: Lanczos steps, each a curvature product.
        curvature: "ggn" or "hessian", whose negative end then counts by its magnitude.
        safety: share of the optimal learning rate to take, in (0, 1].
        max_growth: by what factor the learning rate may grow in one call, at least 1.
        max_momentum: in [0, 1).
        relative_floor: the bulk's curvature is taken to be at least this share of the largest, in (0, 1].
        memory: share of the last largest curvature below which the next does not fall, in [0, 1].
        generator: draws the starting vectors.

    Raises:
        ValueError: an optimiser other than SGD, one with Nesterov's momentum or with dampening, a learning
            rate of 0, an argument out of range.

    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Linear(4, 1), torch.randn(64, 4)
    >>> y = x.sum(1, keepdim=True)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> learner = SpectralRateLearner(optimizer, n_lanczos=5)
    >>> for step in range(100):
    ...     if step % 5 == 0:
    ...         rates = learner.step(model, nn.functional.mse_loss, x, y)
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    >>> rates.learning_rate > 0.05, loss.item() < 1e-6
    (True, True)
    """

    def __init__(
        self,
        optimizer: torch.optim.SGD,
        *,
        n_lanczos: int = 8,
        curvature: Curvature = "ggn",
        safety: float = 0.25,
        max_growth: float = 1.2,
        max_momentum: float = 0.95,
        relative_floor: float = 0.01,
        memory: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.SGD):
            raise ValueError(f"optimizer must be a torch.optim.SGD, got {type(optimizer).__name__}")
        for group in optimizer.param_groups:
            if group["nesterov"] or group["dampening"]:
                raise ValueError("optimizer must have no Nesterov momentum and no dampening, got one of them")
            _require(group["lr"] > 0, "optimizer's learning rate", float(group["lr"]), "positive")
        _require_count("n_lanczos", n_lanczos)
        _require(curvature in get_args(Curvature), "curvature", curvature, "'hessian' or 'ggn'")
        _require(0 < safety <= 1, "safety", safety, "in (0, 1]")
        _require(1 <= max_growth < math.inf, "max_growth", max_growth, "a number of at least 1")
        _require(0 <= max_momentum < 1, "max_momentum", max_momentum, "in [0, 1)")
        _require(0 < relative_floor <= 1, "relative_floor", relative_floor, "in (0, 1]")
        _require(0 <= memory <= 1, "memory", memory, "in [0, 1]")
        self.optimizer = optimizer
        self.n_lanczos = n_lanczos
        self.curvature: Curvature = curvature
        self.safety = safety
        self.max_growth = max_growth
        self.max_momentum = max_momentum
        self.relative_floor = relative_floor
        self.memory = memory
        self.generator = generator
        self._largest = 0.0

    def step(self, model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any) -> SpectralRates:
        """Measure the curvature of this batch and set the optimiser's rates by it; see `curvature_operator`.

        Call it every few training steps, every 20 in long runs, before the optimiser's step. Where loss or
        curvature are not finite it warns and halves the learning rate; where there is no curvature at all
        it keeps the rates.

        Raises ValueError as `curvature_operator` does, and if the model has fewer than n_lanczos parameters.
        """
        operator = curvature_operator(model, loss_fn, inputs, targets, curvature=self.curvature)
        _require(operator.dim >= self.n_lanczos, "n_lanczos", self.n_lanczos, f"at most {operator.dim=}")
        learning_rate = min(float(group["lr"]) for group in self.optimizer.param_groups)
        momentum = float(self.optimizer.param_groups[0]["momentum"])
        spectrum = self._spectrum(operator, _device(model))
        if spectrum is None:
            warnings.warn(
                "the loss or its curvature is not finite: the learning rate is halved",
                RuntimeWarning,
                stacklevel=2,
            )
            return self._set(SpectralRates(learning_rate / 2, momentum, math.nan, math.nan))
        magnitudes = np.abs(spectrum.ritz_values)
        self._largest = max(float(magnitudes.max()), self.memory * self._largest)
        largest = self._largest
        if largest == 0:
            return self._set(SpectralRates(learning_rate, momentum, 0.0, 0.0))
        bulk = float(magnitudes[spectrum.weights.argmax()])
        smallest = min(max(bulk, self.relative_floor * largest), largest)
        best_rate, best_momentum = optimal_rates(largest, smallest)
        return self._set(
            SpectralRates(
                min(self.safety * best_rate, self.max_growth * learning_rate),
                min(best_momentum, self.max_momentum),
                largest,
                smallest,
            )
        )

    def _spectrum(self, operator: CurvatureOperator, device: torch.device) -> LanczosSpectrum | None:
        """The spectrum on this batch, or None where it is not finite."""
        if not math.isfinite(operator.loss):
            return None
        finite = True

        def checked(vector: Tensor) -> Tensor:
            nonlocal finite
            product = operator(vector)
            finite = finite and bool(product.isfinite().all())
            return product.nan_to_num(0.0, 0.0, 0.0)

        start = _unit_vector(operator.dim, self.generator).to(device)
        spectrum = lanczos_spectrum(checked, operator.dim, self.n_lanczos, start=start)
        return spectrum if finite else None

    def _set(self, rates: SpectralRates) -> SpectralRates:
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = rates.learning_rate, rates.momentum
        return rates
