"""Diffusion models as Wasserstein gradient flows: is a field a gradient, what moves densities, what does not.

Source: Vuong, McCann, Santos and Lin, "Are We Really Learning the Score Function? Reinterpreting Diffusion
Models Through Wasserstein Gradient Flow Matching", 2025, arXiv 2509.00336.

A score is the gradient of a log density, so its Jacobian is symmetric and its integral along any closed loop
is 0. What a network learns need be neither. With p_t the density of ``x_t`` under ``dx = f x dt + g dW``, the
velocity ``v = f x - g^2/2 grad log p_t`` is the Wasserstein gradient flow of an entropy: of the relative
entropy to N(0, I) where variance is preserved, at the rate beta/2, and of the negative entropy where it
explodes, at the rate g^2/2. Run forwards it makes noise of data, run backwards data of noise. An error e of
the score leaves every density as it is if and only if ``div(p_t e) = 0``.

A field is any function of x, (B, *event), and a time t, one or (B,), that gives a tensor in the shape of x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.diffusion.sde import MLPDenoiser, NoiseSchedule, Time, check_choice, per_sample

Field = Callable[[Tensor, Time], Tensor]
TransportMethod = Literal["heun", "euler", "rk4"]

_VALUES_AT_ONCE = 1_000_000


# ---------------------------------------------------------------------- is a field a gradient


def field_jacobian(
    field: Field, x: Tensor, t: Time, *, coordinates: Sequence[int] | Tensor | None = None
) -> Tensor:
    """The Jacobian of a field at each point, or its block at chosen coordinates (Vuong et al., 2025, arXiv
    2509.00336).

    One backward pass a coordinate for all points together, so that the field is to treat each point apart, as
    networks without batch statistics do.

    Arguments:
        field: differentiable in x.
        x: (B, *event), the points.
        t: times.
        coordinates: k places in the flattened event, for rows and columns alike; None for all.

    Returns ``J[b, i, j] = d field_i / d x_j``, (B, k, k), detached; also where gradients are switched off.
    Raises ValueError for coordinates that are fewer than two, repeated or out of range, and for a field that
    is not differentiable in x, not finite or not in the shape of x.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> field_jacobian(lambda x, t: x @ turn.T, torch.ones(1, 2), 0.0).tolist()
    [[[0.0, -1.0], [1.0, 0.0]]]
    """
    _check_points("x", x)
    chosen = _checked_coordinates(coordinates, x[0].numel()).to(x.device)
    with torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        values = _evaluate("field", field, points, t)
        if not values.requires_grad:
            raise ValueError("field is to be differentiable in x, got values that carry no gradient")
        totals = values.flatten(1).sum(0)[chosen]
        rows = [
            torch.autograd.grad(total, points, retain_graph=True, materialize_grads=True)[0].flatten(1)
            for total in totals
        ]
    return torch.stack([row[:, chosen] for row in rows], dim=1).detach()


def jacobian_asymmetry(
    field: Field, x: Tensor, t: Time, *, coordinates: Sequence[int] | Tensor | None = None
) -> Tensor:
    """How far a field's Jacobian is from symmetric, 0 for gradients, at most 1 (Vuong et al., 2025, arXiv
    2509.00336).

    ``|J - J^T| / (2 |J|)`` in Frobenius norms, 0 where J is 0. A block of a symmetric matrix at the same
    rows and columns is symmetric, so that any block can show that a field is no gradient. At low noise the
    Jacobian of a score is nearly ``-I / sigma^2``, which hides asymmetry that the denoiser's Jacobian shows.

    Arguments: as in `field_jacobian`. Returns (B,). Raises ValueError as that does.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> jacobian_asymmetry(lambda x, t: x @ turn.T, torch.ones(1, 2), 0.0).tolist()
    [1.0]
    """
    jacobian = field_jacobian(field, x, t, coordinates=coordinates)
    skew = torch.linalg.matrix_norm(jacobian - jacobian.mT) / 2
    size = torch.linalg.matrix_norm(jacobian)
    asymmetry: Tensor = skew / torch.where(size > 0, size, 1)
    return asymmetry


@dataclass(frozen=True)
class Circulation:
    """Integrals of a field along closed loops (Vuong et al., 2025, arXiv 2509.00336).

    `value` is the integral of F . dl, (B,), `relative` its size as a share of the integral of |F| |dl|, from
    0 to 1, (B,); both are 0 for gradients.
    """

    value: Tensor
    relative: Tensor


@torch.no_grad()
def circulation(
    field: Field,
    center: Tensor,
    t: Time,
    *,
    radius: float,
    directions: tuple[Tensor, Tensor],
    n_points: int = 128,
) -> Circulation:
    """The integral of a field around circles ``c + r (cos(a) u + sin(a) v)`` (Vuong et al., 2025, arXiv
    2509.00336).

    The trapezoid rule at even angles, whose error falls faster than any power of n_points.

    Arguments:
        field: the field.
        center: (B, *event).
        t: times.
        radius: r, in the units of x.
        directions: u and v, orthonormal, each of shape event, or (B, *event) for planes of their own; the way
            is from u to v.
        n_points: points a circle, at which the field is evaluated.

    Raises ValueError for a radius that is not positive, n_points below 8, directions that are not
    orthonormal, and a field that is not finite or not in the shape of x.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> loop = circulation(
    ...     lambda x, t: x @ turn.T, torch.zeros(1, 2), 0.0, radius=0.5, directions=tuple(torch.eye(2))
    ... )
    >>> round(loop.value.item() / math.pi, 6), round(loop.relative.item(), 6)
    (0.5, 1.0)
    """
    _check_points("center", center)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius is to be positive, got {radius}")
    if n_points < 8:
        raise ValueError(f"n_points is to be 8 or more, got {n_points}")
    if isinstance(t, Tensor) and t.ndim and t.shape != center.shape[:1]:
        raise ValueError(f"t is to be one time or {len(center)} as in center, got shape {tuple(t.shape)}")
    middle = center.flatten(1)
    u, v = _checked_directions(directions, center)
    angles = torch.arange(n_points, dtype=center.dtype, device=center.device) * (2 * math.pi / n_points)
    cosines, sines = angles.cos()[:, None], angles.sin()[:, None]
    along, sizes = [], []
    every = torch.arange(len(middle) * n_points, device=center.device)
    for some in torch.split(every, max(1, _VALUES_AT_ONCE // middle.shape[1])):
        loop, place = some // n_points, some % n_points
        points = middle[loop] + radius * (cosines[place] * u[loop] + sines[place] * v[loop])
        times = t[loop] if isinstance(t, Tensor) and t.ndim else t
        values = _evaluate("field", field, points.reshape(-1, *center.shape[1:]), times).flatten(1)
        along.append((values * (cosines[place] * v[loop] - sines[place] * u[loop])).sum(1))
        sizes.append(values.norm(dim=1))
    step = 2 * math.pi * radius / n_points
    value, length = (step * torch.cat(parts).view(-1, n_points).sum(1) for parts in (along, sizes))
    return Circulation(value, value.abs() / torch.where(length > 0, length, 1))


# ---------------------------------------------------------------------- the flow, its training, its errors


def wasserstein_velocity(score: Field, schedule: NoiseSchedule) -> Field:
    """The velocity of the Wasserstein gradient flow of a score (Vuong et al., 2025, arXiv 2509.00336).

    ``v(x, t) = f(t) x - g(t)^2/2 score(x, t)``, that of the probability-flow ODE.

    Arguments:
        score: the score of x_t, or a field in its place.
        schedule: the forward process.

    Returns the velocity, a field. For the Ornstein-Uhlenbeck process it is ``-x - score``:

    >>> from assay.diffusion import VPSchedule
    >>> velocity = wasserstein_velocity(lambda x, t: -x / 2, VPSchedule(2, 2))
    >>> velocity(torch.ones(1, 2), 0.5).tolist()
    [[-0.5, -0.5]]
    """

    def velocity(x: Tensor, t: Time) -> Tensor:
        f, g = (per_sample(level(t), x) for level in (schedule.drift_coefficient, schedule.diffusion))
        return f * x - g.square() / 2 * score(x, t)

    return velocity


def gradient_flow_matching_loss(
    velocity: Field, schedule: NoiseSchedule, x0: Tensor, t: Time, noise: Tensor
) -> Tensor:
    """The squared error of a velocity at x_t against that of x_t given x_0 (Vuong et al., 2025, arXiv
    2509.00336).

    ``|velocity(x_t, t) - (f x_t + g^2/(2 sigma) noise)|^2``, its mean over the event, which is least for the
    velocity of the gradient flow. For that of a denoiser's score it is ``(g^2 alpha / (2 sigma^2))^2`` times
    `denoising_loss` with weighting "denoiser", sample by sample.

    Arguments:
        velocity: a field, e.g. a network; its gradients are kept.
        schedule: the forward process.
        x0: (B, *event), data.
        t: times of positive noise.
        noise: (B, *event), standard normal.

    Returns (B,). Raises ValueError for shapes that do not match.

    >>> from assay.diffusion import VESchedule
    >>> schedule, x0 = VESchedule(), torch.zeros(3, 2)
    >>> velocity = wasserstein_velocity(lambda x, t: -x / schedule.sigma(t) ** 2, schedule)
    >>> gradient_flow_matching_loss(velocity, schedule, x0, 0.5, torch.ones(3, 2)).round(decimals=6).tolist()
    [0.0, 0.0, 0.0]
    """
    if noise.shape != x0.shape:
        raise ValueError(f"noise is to have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    x = schedule.perturb(x0, t, noise)
    levels = (schedule.drift_coefficient, schedule.diffusion, schedule.sigma)
    f, g, sigma = (per_sample(level(t), x0) for level in levels)
    target = f * x + g.square() / (2 * sigma) * noise
    return (_evaluate("velocity", velocity, x, t) - target).square().flatten(1).mean(1)


def solenoidal_perturbation(score: Field, matrix: Tensor) -> Field:
    """An error of a score that moves points and leaves every density as it is (Vuong et al., 2025, arXiv
    2509.00336).

    ``A s(x, t)`` with A antisymmetric: ``div(p A grad log p) = div(A grad p) = 0`` at every t. For A
    orthogonal as well it has the size of the score itself at every point. This holds of the exact score and
    of a matrix that does not depend on x; not of every field that is no gradient.

    Arguments:
        score: the score.
        matrix: A, (d, d) for events of d numbers.

    Returns the error, a field, to be added to the score. Raises ValueError for a matrix that is not square or
    not antisymmetric, and when called for a matrix of another size than the event's.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> solenoidal_perturbation(lambda x, t: -x, turn)(torch.tensor([[1.0, 0.0]]), 0.5).tolist()
    [[0.0, -1.0]]
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix is to be square, got shape {tuple(matrix.shape)}")
    if not (gap := float((matrix + matrix.mT).abs().max())) <= 1e-8:
        raise ValueError(f"matrix is to be antisymmetric, but A + A^T is up to {gap:.3g}")

    def error(x: Tensor, t: Time) -> Tensor:
        if x[0].numel() != len(matrix):
            raise ValueError(f"x is to have {len(matrix)} numbers a point, got shape {tuple(x.shape)}")
        return (score(x, t).flatten(1) @ matrix.to(x).mT).reshape(x.shape)

    return error


@torch.no_grad()
def transport(velocity: Field, x: Tensor, timesteps: Tensor, *, method: TransportMethod = "heun") -> Tensor:
    """Moves points along a velocity, ``dx/dt = velocity(x, t)`` (Vuong et al., 2025, arXiv 2509.00336).

    Arguments:
        velocity: a field; it may use gradients inside, none are kept.
        x: (B, *event), where to begin.
        timesteps: (n + 1,), strictly rising (to noise) or falling (to data), where the velocity is finite:
            not to noise 0.
        method: "euler" (order 1, n evaluations), "heun" (order 2, 2 n), "rk4" (order 4, 4 n).

    Returns the points at the last time, in the shape of x. Raises ValueError for timesteps that are not
    strictly monotone, an unknown method, and a velocity that is not finite or not in the shape of x.

    >>> steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> round(transport(lambda x, t: -x, torch.ones(1, 1, dtype=torch.float64), steps).item(), 4)
    0.3679
    """
    check_choice("method", method, get_args(TransportMethod))
    times = _checked_monotone(timesteps)

    def slope(points: Tensor, time: float) -> Tensor:
        return _evaluate("velocity", velocity, points, x.new_tensor(time))

    for start, end in itertools.pairwise(times):
        step = end - start
        first = slope(x, start)
        match method:
            case "euler":
                x = x + step * first
            case "heun":
                x = x + step / 2 * (first + slope(x + step * first, end))
            case _:
                middle = start + step / 2
                second = slope(x + step / 2 * first, middle)
                third = slope(x + step / 2 * second, middle)
                fourth = slope(x + step * third, end)
                x = x + step / 6 * (first + 2 * (second + third) + fourth)
    return x


class ConservativeDenoiser(MLPDenoiser):
    """A denoiser whose score is a gradient by construction, to set beside `MLPDenoiser` (Vuong et al., 2025,
    arXiv 2509.00336).

    In the place of the network F it has the gradient of the scalar ``psi(u) = u . F(u)``, in the same scaled
    variables: ``D = c_skip x_hat + c_out grad psi(c_in x_hat)``. Every smooth scalar is of this form up to a
    constant. Parameters are those of an `MLPDenoiser` of the same sizes, and untrained both return the same.

    Arguments, and errors: as of `MLPDenoiser`.

    >>> from assay.diffusion import EDMSchedule
    >>> model = ConservativeDenoiser(3, EDMSchedule(), width=16)
    >>> _ = torch.nn.init.normal_(model.last.weight)
    >>> bool((jacobian_asymmetry(model, torch.randn(5, 3), 1.0) < 1e-5).all())
    True
    """

    def network(self, scaled: Tensor, noise: Tensor) -> Tensor:
        unconstrained = super().network

        def total(u: Tensor) -> Tensor:
            return (u * unconstrained(u, noise)).sum()

        gradient: Tensor = torch.func.grad(total)(scaled)
        return gradient


# ---------------------------------------------------------------------- checks


def _evaluate(name: str, field: Field, x: Tensor, t: Time) -> Tensor:
    values = field(x, t)
    if values.shape != x.shape:
        raise ValueError(f"{name} is to return the shape of x, {tuple(x.shape)}, got {tuple(values.shape)}")
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        time = t[~finite][0] if isinstance(t, Tensor) and t.ndim else t
        raise ValueError(f"{name} is to be finite, but is not at time {float(time):g}")
    return values


def _check_points(name: str, x: Tensor) -> None:
    if x.ndim < 2 or not x.numel() or not x.is_floating_point():
        raise ValueError(
            f"{name} is to hold one or more points (B, *event) in floating point, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )


def _checked_coordinates(coordinates: Sequence[int] | Tensor | None, d: int) -> Tensor:
    if coordinates is None:
        return torch.arange(d)
    chosen = torch.as_tensor(coordinates, dtype=torch.long)
    if chosen.ndim != 1 or len(chosen) < 2 or len(set(chosen.tolist())) < len(chosen):
        raise ValueError(f"coordinates is to hold two or more different places, got {chosen.tolist()}")
    if chosen.min() < 0 or chosen.max() >= d:
        raise ValueError(f"coordinates is to be from 0 to {d - 1}, got {chosen.tolist()}")
    return chosen


def _checked_directions(directions: tuple[Tensor, Tensor], center: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, d)."""
    for direction in directions:
        if direction.shape not in (center.shape, center.shape[1:]):
            raise ValueError(
                f"directions is to have shapes {tuple(center.shape[1:])} or {tuple(center.shape)}, "
                f"got {tuple(direction.shape)}"
            )
    u, v = (direction.to(center).expand_as(center).flatten(1) for direction in directions)
    gap = max(float(part.abs().max()) for part in ((u * u).sum(1) - 1, (v * v).sum(1) - 1, (u * v).sum(1)))
    if not gap <= max(1e-6, 10 * torch.finfo(center.dtype).eps):
        raise ValueError(f"directions is to be orthonormal, but its products are off by {gap:.3g}")
    return u, v


def _checked_monotone(timesteps: Tensor) -> list[float]:
    times = torch.as_tensor(timesteps, dtype=torch.float64)
    steps = times.diff() if times.ndim == 1 else times
    if times.ndim != 1 or len(times) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "timesteps is to be a strictly rising or strictly falling sequence of two or more times, "
            f"got {times.tolist() if times.numel() < 9 else tuple(times.shape)}"
        )
    listed: list[float] = times.tolist()
    return listed
