"""Small-Gain Nash beside what a user would run instead: scans over weights, and loops of autograd.

Prints one line a comparison: name, milliseconds of assay, milliseconds of the other, ratio. Least of paired
repeats, the same games. Run it with one thread (OMP_NUM_THREADS=1).
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from assay.optimize.small_gain_nash import (
    Certificate,
    MarkovGame,
    certify,
    certify_policy_gradient,
    coordination_game,
    optimal_weights,
)

RATIOS = np.geomspace(0.1, 1e4, 161)
BLOCK = 32


def coupled_games() -> np.ndarray:
    R = np.linalg.qr(np.random.default_rng(0).normal(size=(BLOCK, BLOCK)))[0]
    games = np.tile(np.eye(2 * BLOCK), (61, 1, 1))
    s = np.linspace(0, 2.5, 61)[:, None, None]
    games[:, :BLOCK, BLOCK:], games[:, BLOCK:, :BLOCK] = 10 * s * R, 0.05 * s * R.T
    return games


def scan_margins(curvature: np.ndarray, coupling: np.ndarray) -> float:
    """The best margin of two players over a grid of ratios."""
    margins = []
    for ratio in RATIOS:
        w = np.array([1.0, ratio])
        C = np.diag(2 * w * curvature) - (w[:, None] * coupling + (w[:, None] * coupling).T)
        scale = np.diag(w**-0.5)
        margins.append(np.linalg.eigvalsh(scale @ C @ scale)[0] / 2)
    return max(margins)


def scan(H: np.ndarray, true_margins: bool = False) -> float:
    """The best margin over a grid of ratios; the Lipschitz constant, and so the steps, come with each ratio.

    With `true_margins` also the game's own margin in each metric, as published scans have it.
    """
    own, other = slice(None, BLOCK), slice(BLOCK, None)
    mu = [np.linalg.eigvalsh(H[block, block])[0] for block in (own, other)]
    L12, L21 = np.linalg.norm(H[own, other], 2), np.linalg.norm(H[other, own], 2)
    found = []
    for ratio in RATIOS:
        across = (L12 / np.sqrt(ratio) + L21 * np.sqrt(ratio)) / 2
        margin = np.linalg.eigvalsh([[mu[0], -across], [-across, mu[1]]])[0]
        root = np.repeat([1.0, np.sqrt(ratio)], BLOCK)
        scaled = H * root[:, None] / root
        true_margin = np.linalg.eigvalsh((scaled + scaled.T) / 2)[0] if true_margins else None
        found.append((margin, np.linalg.norm(scaled, 2), true_margin))
    return max(margin for margin, _, _ in found)


def autograd_certificate(game: MarkovGame, radius: float = 0.1) -> float:
    """The margin of equal weights over all corners of the cube, one Hessian after another."""
    n = game.blocks[0]
    mu, L = np.full(2, np.inf), np.zeros(2)
    for corner in np.ndindex(*[2] * sum(game.blocks)):
        theta = radius * (2.0 * torch.tensor(corner, dtype=torch.float64) - 1)
        roots = []
        for F in game.fisher(theta.numpy()):
            values, vectors = np.linalg.eigh(F)
            kept = values > 1e-9
            roots.append(vectors[:, kept] / np.sqrt(values[kept]))
        for i in range(2):
            H = torch.autograd.functional.hessian(lambda x: game.losses(x)[i], theta).numpy()  # noqa: B023
            own, other = (slice(None, n), slice(n, None))[:: 1 - 2 * i]
            mu[i] = min(mu[i], np.linalg.eigvalsh(roots[i].T @ H[own, own] @ roots[i])[0])
            L[i] = max(L[i], np.linalg.norm(roots[i].T @ H[own, other] @ roots[1 - i], 2))
    across = L.sum() / 2
    return float(np.linalg.eigvalsh([[mu[0], -across], [-across, mu[1]]])[0])


def autograd_play(game: MarkovGame, starts: np.ndarray, step: float, n_steps: int) -> np.ndarray:
    n, ends = game.blocks[0], []
    for start in starts:
        theta = torch.tensor(start)
        for _ in range(n_steps):
            theta.requires_grad_(True)
            losses = game.losses(theta)
            first = torch.autograd.grad(losses[0], theta, retain_graph=True)[0][:n].numpy()
            second = torch.autograd.grad(losses[1], theta)[0][n:].numpy()
            theta = theta.detach()
            parts = zip(game.fisher(theta.numpy()), (first, second), strict=True)
            direction = np.concatenate([np.linalg.lstsq(F, gradient)[0] for F, gradient in parts])
            theta = theta - step * torch.from_numpy(direction)
        ends.append(theta.numpy())
    return np.array(ends)


def play(game: MarkovGame, starts: np.ndarray, step: float, n_steps: int) -> np.ndarray:
    theta = starts
    for _ in range(n_steps):
        theta = game.natural_step(theta, step)
    return theta


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int = 3) -> None:
    seconds = np.empty((2, repeats))
    for repeat in range(repeats):
        for method, call in enumerate((ours, other)):
            start = time.perf_counter()
            call()
            seconds[method, repeat] = time.perf_counter() - start
    mine, theirs = seconds.min(axis=1)
    print(f"{name:<66} {1e3 * mine:10.2f} ms {1e3 * theirs:10.2f} ms   x{theirs / mine:.0f}", flush=True)


def main() -> None:
    games = coupled_games()

    def certificates() -> list[Certificate]:
        return [certify(H, [BLOCK, BLOCK]) for H in games]

    for certificate, H in zip(certificates()[::10], games[::10], strict=True):
        assert scan(H) <= certificate.margin + 1e-9
    compare(
        "61 games of 64 variables: a scan of 161 ratios each", certificates, lambda: [scan(H) for H in games]
    )
    compare(
        "61 games of 64 variables: the same with true margins",
        certificates,
        lambda: [scan(H, true_margins=True) for H in games],
    )
    compare("one game of 64 variables: a scan", lambda: certify(games[24], [32, 32]), lambda: scan(games[24]))
    compare(
        "the longest Euler step of one game: a scan",
        lambda: certify(games[24], [32, 32], objective="euler"),
        lambda: scan(games[24]),
    )
    mu, L = np.ones(2), np.array([[0, 10.0], [0.05, 0]])
    compare(
        "the best weights of two players: 161 ratios",
        lambda: optimal_weights(mu, L),
        lambda: scan_margins(mu, L),
    )

    game = coordination_game()
    margin = certify_policy_gradient(game, np.zeros(8)).margin
    assert abs(margin - autograd_certificate(game)) < 1e-9
    compare(
        "Markov game, 256 corners: Hessians by autograd",
        lambda: certify_policy_gradient(game, np.zeros(8)),
        lambda: autograd_certificate(game),
    )
    starts = 0.01 * np.random.default_rng(0).normal(size=(20, 8))
    assert np.allclose(play(game, starts, 0.2, 20), autograd_play(game, starts, 0.2, 20))
    compare(
        "natural policy gradient, 20 starts, 100 steps: autograd and lstsq",
        lambda: play(game, starts, 0.2, 100),
        lambda: autograd_play(game, starts, 0.2, 100),
    )


if __name__ == "__main__":
    main()
