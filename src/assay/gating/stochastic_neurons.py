"""Gradients through stochastic and hard gates, and a layer whose sparse gates decide which experts compute.

Paper: Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
Conditional Computation", 2013, arXiv 1308.3432.

Throughout, a is a unit's pre-activation (its logit), ``p = sigmoid(a)`` and h the unit's output. Where the
paper's formulas and its proofs disagree, this follows the proofs: P(h = 1) is p for a binary neuron (not
1 - p), and P(h > 0) is sqrt(p) for the stochastic-times-smooth unit.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, NamedTuple, cast, get_args

import numba
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional

Noise = Literal["logistic", "gaussian"]
GateEstimator = Literal[
    "straight_through",
    "straight_through_sigmoid",
    "sts",
    "reinforce",
    "noisy_rectifier",
    "rectifier",
    "sigmoid",
    "sigmoid_noise",
]
_RECTIFIERS = ("noisy_rectifier", "rectifier")
_DENSE = ("sigmoid", "sigmoid_noise")


def straight_through(
    logits: Tensor, *, multiply_derivative: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Binary neurons whose incoming gradient is copied to the logits, as if sampling were the identity.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432. Forward: h is 1 with probability p, else 0.
    Backward: ``dL/da = dL/dh``. It is biased: with several units even the sign of the mean can be wrong.

    Arguments:
        logits: the pre-activations a, any shape, finite floating point.
        multiply_derivative: multiply the gradient by ``p (1 - p)``; the paper found the plain copy better.
        generator: what to draw from; None for torch's global generator.

    Returns zeros and ones in the shape and dtype of `logits`. Raises ValueError for logits that are not
    floating point or not finite.

    >>> logits = torch.tensor([-20.0, 0.5, 20.0], requires_grad=True)
    >>> h = straight_through(logits, generator=torch.Generator().manual_seed(0))
    >>> h.backward(torch.tensor([1.0, 2.0, 3.0]))
    >>> h.detach().tolist(), logits.grad.tolist()
    ([0.0, 0.0, 1.0], [1.0, 2.0, 3.0])
    """
    _check_logits(logits)
    sample = _bernoulli(torch.sigmoid(_wide(logits.detach())), generator).to(logits.dtype)
    carrier = torch.sigmoid(logits) if multiply_derivative else logits
    return sample + (carrier - carrier.detach())  # adds exactly zero, with the carrier's gradient


def stochastic_times_smooth(
    logits: Tensor, *, stochastic_ratio: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """Sparse units that multiply a binary factor by a smooth one (STS), so that gradients flow when on.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432: ``h = b p^(1 - r)``, b ~ Bernoulli(p^r), where r is
    the stochastic ratio, 1/2 in the paper. The mean is p and the share of units on is p^r. Back-propagation
    treats b as constant, so for a linear loss the mean gradient is 1 - r of the true one.

    Arguments:
        logits: the pre-activations a, any shape, finite floating point.
        stochastic_ratio: how much of log p is in the probability of b, strictly between 0 and 1.
        generator: what to draw from; None for torch's global generator.

    Returns h in the shape and dtype of `logits`. Raises ValueError for a ratio out of range and for logits
    that are not floating point or not finite.

    >>> h = stochastic_times_smooth(torch.zeros(1000), generator=torch.Generator().manual_seed(0))
    >>> [round(value, 4) for value in h.unique().tolist()], round(float(h.mean()), 1)
    ([0.0, 0.7071], 0.5)
    """
    _check_logits(logits)
    if not 0 < stochastic_ratio < 1:
        raise ValueError(f"stochastic_ratio must be strictly between 0 and 1, got {stochastic_ratio}")
    log_p = functional.logsigmoid(logits)  # a power of p this way has a bounded derivative as p goes to 0
    on = _bernoulli((stochastic_ratio * _wide(log_p.detach())).exp(), generator)
    return torch.where(on, ((1 - stochastic_ratio) * log_p).exp(), 0.0)


def noisy_rectifier(
    logits: Tensor,
    *,
    noise: Noise = "logistic",
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rectifiers of a noisy pre-activation, ``h = max(0, a + scale z)``, with the rectifier's gradient.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432. With logistic z and scale 1, a unit is on with
    probability ``sigmoid(a)`` and its mean is ``log(1 + exp(a))``. The paper's networks use Gaussian z.

    Arguments:
        logits: the pre-activations a, any shape, finite floating point.
        noise: "logistic" (density ``sigmoid(z) (1 - sigmoid(z))``) or "gaussian" (standard normal).
        scale: what z is multiplied by, at least 0.
        generator: what to draw from; None for torch's global generator.

    Returns h in the shape and dtype of `logits`. Raises ValueError for an unknown noise, a negative scale and
    logits that are not floating point or not finite.

    >>> h = noisy_rectifier(torch.full((10_000,), -2.0), generator=torch.Generator().manual_seed(0))
    >>> round(float((h > 0).double().mean()), 1), bool((h >= 0).all())  # sigmoid(-2) is 0.119
    (0.1, True)
    """
    _check_logits(logits)
    _check_choice("noise", noise, get_args(Noise))
    _check_nonnegative("scale", scale)
    if noise == "gaussian":
        z = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
    else:
        uniform = _uniform(logits, generator)
        z = uniform.clamp_min_(torch.finfo(uniform.dtype).tiny).logit_().to(logits.dtype)
    return functional.relu(logits + scale * z)


def reinforce_gradient(
    samples: Tensor, probabilities: Tensor, losses: Tensor, baseline: float | Tensor | None = None
) -> Tensor:
    """Unbiased estimates of dE[L]/da of binary neurons, ``(h_i - p_i) (L - baseline_i)``.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432 (a case of REINFORCE): nothing is propagated back
    through L. The estimate is unbiased for every baseline that does not depend on these samples, and has the
    least variance with that of `optimal_baseline`.

    Arguments:
        samples: (n, units) h, the outputs of independent binary neurons.
        probabilities: (n, units) p, with which each was 1.
        losses: (n,) L, each example's own loss, not their mean.
        baseline: a number, or (units,), or None for 0.

    Returns (n, units), detached. Raises ValueError for shapes that do not match.

    >>> samples, probabilities = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.25], [0.25]])
    >>> reinforce_gradient(samples, probabilities, torch.tensor([2.0, 1.0]), baseline=0.5).tolist()
    [[1.125], [-0.125]]
    """
    _check_batch(samples, probabilities, losses)
    if isinstance(baseline, Tensor):
        if baseline.shape not in ((), samples.shape[1:]):
            expected = f"be a number or have shape {tuple(samples.shape[1:])}"
            raise ValueError(f"baseline must {expected}, got shape {tuple(baseline.shape)}")
        baseline = baseline.detach()
    advantage = losses.detach()[:, None] - (0.0 if baseline is None else baseline)
    return (samples - probabilities).detach() * advantage


def optimal_baseline(samples: Tensor, probabilities: Tensor, losses: Tensor) -> Tensor:
    """The baseline of least variance for `reinforce_gradient`, ``E[(h - p)^2 L] / E[(h - p)^2]`` per unit.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432. The expectations are means over the batch; an
    estimate that uses the result on the same batch is no longer exactly unbiased.

    Arguments as for `reinforce_gradient`. Returns (units,), detached, 0 for a unit without any variance.
    Raises ValueError for shapes that do not match.

    >>> samples, probabilities = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.25], [0.25]])
    >>> round(optimal_baseline(samples, probabilities, torch.tensor([2.0, 1.0])).item(), 4)
    1.9
    """
    numerator, denominator = _second_moments(samples, probabilities, losses)
    return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny)


class MinimumVarianceBaseline(nn.Module):
    """The optimal baseline of each unit, tracked by moving averages of its numerator and denominator.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432; see `optimal_baseline`. Read `value` before
    `update`: a baseline that has not seen a batch leaves that batch's estimates unbiased.

    Arguments:
        n_units: number of binary neurons.
        decay: weight of the past in each update, at least 0 and below 1.
        eps: what both averages start at, positive; the value starts at 1 and leaves it with the first update.

    The buffers are `numerator` and `denominator`, (n_units,). Raises ValueError for values out of range.

    >>> baseline = MinimumVarianceBaseline(1)
    >>> h, p = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.5], [0.5]])
    >>> value = baseline.update(h, p, losses=torch.tensor([3.0, 1.0]))
    >>> round(value.item(), 3), bool(value == baseline.value)
    (2.0, True)
    """

    numerator: Tensor
    denominator: Tensor

    def __init__(self, n_units: int, decay: float = 0.9, eps: float = 1e-6) -> None:
        super().__init__()
        _check_count("n_units", n_units)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        _check_positive("eps", eps)
        self.decay = decay
        self.register_buffer("numerator", torch.full((n_units,), eps))
        self.register_buffer("denominator", torch.full((n_units,), eps))

    @property
    def value(self) -> Tensor:
        """The baseline, (n_units,)."""
        return self.numerator / self.denominator

    def update(self, samples: Tensor, probabilities: Tensor, losses: Tensor) -> Tensor:
        """Take in one batch, arguments as for `reinforce_gradient`, and return the new value."""
        moments = _second_moments(samples, probabilities, losses)
        if moments[0].shape != self.numerator.shape:
            raise ValueError(f"samples must have {len(self.numerator)} units, got {samples.shape[1]}")
        for average, moment in zip((self.numerator, self.denominator), moments, strict=True):
            average.lerp_(moment.to(average), 1 - self.decay)
        return self.value


class _Pass(NamedTuple):
    logits: Tensor
    gates: Tensor
    sampled: bool


class ConditionalLayer(nn.Module):
    """A layer of linear experts, each multiplied by a gate that is mostly off and then need not be computed.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432. The gates' logits are
    ``gater_out(tanh(gater_hidden(x)))``, with a narrow hidden layer (rectified in place of tanh for rectifier
    gates), and the output is ``gates * expert(x)``.

    Arguments:
        in_features: width of the input.
        n_units: number of experts, each with one output and one gate.
        gater_features: width of the gater's hidden layer, much below `n_units` where computation is to be
            saved.
        estimator: how the gates act in training and how gradients pass them: "straight_through",
            "straight_through_sigmoid" (with `multiply_derivative`), "sts" (`stochastic_times_smooth`),
            "reinforce" (binary; add `reinforce_surrogate` to the loss) or "noisy_rectifier" (Gaussian noise);
            without noise "rectifier"; and, never off, "sigmoid" and "sigmoid_noise" (Gaussian noise in it).
        sparsity_target: share of gates that should be on, strictly between 0 and 1.
        penalty_weight: weight of `sparsity_penalty`; by default 1e-5 for rectifiers, else 0.01.
        noise_scale: standard deviation of the Gaussian noise.
        generator: what initial weights and gates are drawn from, and so where the layer is made; None for
            torch's global generator.

    The parts are `expert`, `gater_hidden` and `gater_out` (``nn.Linear``) and, for "reinforce", `baseline`
    (`MinimumVarianceBaseline`). In evaluation nothing is random: a gate is on if its logit exceeds
    `threshold`, which `calibrate` sets, and is then worth 1 (binary), sqrt(p) ("sts"), its logit (rectifiers)
    or p (sigmoids). `threshold` and `penalty_weight` are saved with the state.

    Raises ValueError for sizes below 1, an unknown estimator and values out of range.

    >>> layer = ConditionalLayer(20, n_units=50, gater_features=5, generator=torch.Generator().manual_seed(0))
    >>> x = torch.randn(100, 20, generator=torch.Generator().manual_seed(1))
    >>> loss = layer(x).square().mean() + layer.sparsity_penalty()  # one step of training
    >>> loss.backward()
    >>> threshold = layer.eval().calibrate(x)
    >>> output = layer(x)
    >>> output.shape, round(layer.active_fraction, 3)
    (torch.Size([100, 50]), 0.1)
    >>> torch.allclose(layer.sparse_forward(x), output, atol=1e-5)  # computes one expert in ten
    True
    >>> layer.multiply_adds()  # gater, experts
    (350, 100)
    """

    def __init__(
        self,
        in_features: int,
        n_units: int,
        gater_features: int,
        *,
        estimator: GateEstimator = "straight_through",
        sparsity_target: float = 0.1,
        penalty_weight: float | None = None,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_count("in_features", in_features)
        _check_count("n_units", n_units)
        _check_count("gater_features", gater_features)
        _check_choice("estimator", estimator, get_args(GateEstimator))
        if not 0 < sparsity_target < 1:
            raise ValueError(f"sparsity_target must be strictly between 0 and 1, got {sparsity_target}")
        if penalty_weight is None:
            penalty_weight = 1e-5 if estimator in _RECTIFIERS else 0.01
        _check_nonnegative("penalty_weight", penalty_weight)
        _check_nonnegative("noise_scale", noise_scale)
        self.estimator = estimator
        self.sparsity_target = sparsity_target
        self.penalty_weight = penalty_weight
        self.noise_scale = noise_scale
        self.generator = generator
        self.threshold = -math.inf if estimator in _DENSE else 0.0
        self.expert = _linear(in_features, n_units, generator)
        self.gater_hidden = _linear(in_features, gater_features, generator)
        self.gater_out = _linear(gater_features, n_units, generator, gain=4)
        self.baseline: MinimumVarianceBaseline | None = None
        if estimator == "reinforce":
            self.baseline = MinimumVarianceBaseline(n_units).to(self.expert.weight.device)
        self._last: _Pass | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The last pass holds a part of autograd's graph, which can be neither copied nor pickled.
        return {**self.__dict__, "_last": None}

    def get_extra_state(self) -> dict[str, float]:
        return {"threshold": self.threshold, "penalty_weight": self.penalty_weight}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.threshold, self.penalty_weight = state["threshold"], state["penalty_weight"]

    def extra_repr(self) -> str:
        return f"estimator={self.estimator!r}, sparsity_target={self.sparsity_target}"

    @property
    def active_fraction(self) -> float:
        """The share of gates on in the last forward pass."""
        return float((self._last_pass().gates != 0).double().mean())

    def gate_logits(self, x: Tensor) -> Tensor:
        """The gates' pre-activations, (n, n_units), of inputs (n, in_features)."""
        if x.ndim != 2 or x.shape[1] != self.expert.in_features:
            raise ValueError(f"x must have shape (n, {self.expert.in_features}), got {tuple(x.shape)}")
        hidden = self.gater_hidden(x)
        hidden = functional.relu(hidden) if self.estimator in _RECTIFIERS else torch.tanh(hidden)
        return cast(Tensor, self.gater_out(hidden))

    def gates(self, x: Tensor) -> Tensor:
        """The gates, (n, n_units): drawn in training mode, thresholded in evaluation mode."""
        return self._gates(self.gate_logits(x))

    def forward(self, x: Tensor) -> Tensor:
        """``gates * expert(x)``, (n, n_units), of inputs (n, in_features), with every expert computed."""
        logits = self.gate_logits(x)
        gates = self._gates(logits)
        self._last = _Pass(logits, gates, sampled=self.training)
        return gates * cast(Tensor, self.expert(x))

    @torch.no_grad()
    def sparse_forward(self, x: Tensor) -> Tensor:
        """The output in evaluation mode, (n, n_units), computing only the experts whose gates are on.

        On a CPU in float32 or float64 it is compiled and uses one thread; elsewhere it gathers the active
        experts' weights, one example at a time. It records no gradients.
        """
        logits = self.gate_logits(x)
        gates = self._thresholded(logits)
        self._last = _Pass(logits, gates, sampled=False)
        if self.estimator in _DENSE:
            return gates * cast(Tensor, self.expert(x))
        weight, bias = self.expert.weight.detach(), self.expert.bias.detach()
        output = torch.zeros_like(gates)
        if x.device.type == "cpu" and gates.dtype in (torch.float32, torch.float64):
            # Expert by expert, so that a row of weights is loaded once for all its examples.
            units, examples = gates.mT.nonzero(as_tuple=True)
            _compute_active(
                weight.numpy(),
                bias.numpy(),
                x.detach().contiguous().numpy(),
                gates.numpy(),
                units.numpy(),
                examples.numpy(),
                output.numpy(),
            )
        else:
            for example, gate in enumerate(gates):
                units = gate.nonzero()[:, 0]
                output[example, units] = gate[units] * torch.addmv(bias[units], weight[units], x[example])
        return output

    def sparsity_penalty(self) -> Tensor:
        """The penalty that holds the last forward pass to the sparsity target: add it to the loss.

        For binary and "sts" gates ``-penalty_weight sum_i (s log q_i + (1 - s) log(1 - q_i))``, where q_i is
        the mean over the batch of the probability that gate i is on; for rectifiers ``penalty_weight`` times
        the sum over gates of their means; 0 for the sigmoids, whose gates are never off.
        """
        logits, gates, _ = self._last_pass()
        if self.estimator in _DENSE:
            return logits.new_zeros(())
        if self.estimator in _RECTIFIERS:
            return self.penalty_weight * gates.abs().mean(0).sum()
        on = torch.sigmoid(logits) if self.estimator != "sts" else _sqrt_sigmoid(logits)
        q, s, eps = on.mean(0), self.sparsity_target, 1e-6
        return -self.penalty_weight * (s * (q + eps).log() + (1 - s) * (1 - q + eps).log()).sum()

    def adapt_penalty(self, rate: float = 0.1) -> None:
        """Steer rectifiers to the sparsity target, after each step of training; does nothing for the others.

        Multiplies `penalty_weight` by ``1 + rate`` if the last pass had more than ``sparsity_target + 0.01``
        of the gates on, by ``1 - rate`` if it had less than ``sparsity_target - 0.01``, and keeps it between
        1e-12 and 1. Raises ValueError for a rate outside [0, 1).
        """
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {rate}")
        if self.estimator not in _RECTIFIERS:
            return
        excess = self.active_fraction - self.sparsity_target
        if abs(excess) > 0.01:
            weight = self.penalty_weight * (1 + math.copysign(rate, excess))
            self.penalty_weight = min(max(weight, 1e-12), 1.0)

    def reinforce_surrogate(self, losses: Tensor) -> Tensor:
        """A number whose gradient is the gater's: add it to the mean loss of a "reinforce" layer.

        Its gradient in the gater's parameters is that of ``E[losses]`` as `reinforce_gradient` estimates it
        from the last forward pass, averaged over the batch; its value means nothing. Then `baseline` takes
        the batch in.

        Arguments:
            losses: (n,), each example's own loss.

        Raises ValueError for another estimator or shape, RuntimeError without a last pass in training mode.
        """
        if self.baseline is None:
            raise ValueError(f"reinforce_surrogate needs estimator='reinforce', got {self.estimator!r}")
        logits, gates, sampled = self._last_pass()
        if not sampled:
            raise RuntimeError(
                "reinforce_surrogate needs a pass in training mode, got one in evaluation mode"
            )
        probabilities = torch.sigmoid(logits.detach())
        gradient = reinforce_gradient(gates, probabilities, losses, self.baseline.value)
        self.baseline.update(gates, probabilities, losses)
        return (gradient * logits).sum() / len(losses)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> float:
        """Set `threshold`, and return it, so that a share `sparsity_target` of the gates is on over x.

        The share is over all gates of all examples together, (n, in_features). Rectifiers keep their own
        threshold of 0, sigmoids theirs of minus infinity.
        """
        if len(x) == 0:
            raise ValueError("x must hold at least one example to calibrate on, got none")
        logits = self.gate_logits(x).flatten()
        if self.estimator not in (*_RECTIFIERS, *_DENSE):
            n_off = logits.numel() - round(self.sparsity_target * logits.numel())
            highest_off = logits.kthvalue(max(n_off, 1)).values
            above = logits[logits > highest_off]
            # Half-way, so that no gate of x hangs on a rounding error.
            self.threshold = float((highest_off + (above.min() if len(above) else highest_off)) / 2)
        return self.threshold

    def multiply_adds(self, active_fraction: float | None = None) -> tuple[int, int]:
        """Multiply-adds for one example: those of the gater, and those of the experts that are on.

        `active_fraction` is by default that of the last forward pass; all experts together cost
        ``in_features * n_units``. Raises ValueError if it is outside [0, 1].
        """
        if active_fraction is None:
            active_fraction = self.active_fraction
        if not 0 <= active_fraction <= 1:
            raise ValueError(f"active_fraction must be from 0 to 1, got {active_fraction}")
        gater = self.gater_hidden.weight.numel() + self.gater_out.weight.numel()
        return gater, round(active_fraction * self.expert.weight.numel())

    def _last_pass(self) -> _Pass:
        if self._last is None:
            raise RuntimeError("this needs a forward pass first, got none")
        return self._last

    def _gates(self, logits: Tensor) -> Tensor:
        if not self.training:
            return self._thresholded(logits)
        match self.estimator:
            case "straight_through":
                return straight_through(logits, generator=self.generator)
            case "straight_through_sigmoid":
                return straight_through(logits, multiply_derivative=True, generator=self.generator)
            case "reinforce":
                return straight_through(logits.detach(), generator=self.generator)
            case "sts":
                return stochastic_times_smooth(logits, generator=self.generator)
            case "noisy_rectifier":
                return noisy_rectifier(
                    logits, noise="gaussian", scale=self.noise_scale, generator=self.generator
                )
            case "rectifier":
                return functional.relu(logits)
            case "sigmoid":
                return torch.sigmoid(logits)
            case "sigmoid_noise":
                z = torch.randn(
                    logits.shape, dtype=logits.dtype, device=logits.device, generator=self.generator
                )
                return torch.sigmoid(logits + self.noise_scale * z)

    def _thresholded(self, logits: Tensor) -> Tensor:
        if self.estimator in _RECTIFIERS:
            worth = logits
        elif self.estimator in _DENSE:
            worth = torch.sigmoid(logits)
        elif self.estimator == "sts":
            worth = _sqrt_sigmoid(logits)
        else:
            worth = torch.ones_like(logits)
        return torch.where(logits > self.threshold, worth, 0.0)


class ConditionalClassifier(ClassifierMixin, BaseEstimator):
    """A `ConditionalLayer` under an affine softmax layer, trained as in the paper.

    Bengio, Léonard and Courville, 2013, arXiv 1308.3432. Stochastic gradient descent on the mean loss and the
    sparsity penalty, with a bound on the norm of each unit's incoming weights. After each epoch the gates'
    threshold is calibrated on the training part, and the epoch of least validation error is kept. Predictions
    compute the active experts only.

    Arguments:
        n_units, gater_features, estimator, sparsity_target, penalty_weight: as for `ConditionalLayer`.
        learning_rate: step size; the gater's is `gater_learning_rate_scale` times it.
        momentum: at least 0 and below 1; the paper uses 0.5 for "sts", 0 for the others.
        max_norm: bound on the norm of each unit's incoming weights.
        batch_size, max_epochs: how long and in what portions to train.
        validation_fraction: share of the samples that are held out for choosing the epoch, strictly between
            0 and 1.
        random_state: seeds the split, the initial weights, the order of the samples and the gates. All
            estimators get the same split, weights and order from the same seed.

    Attributes:
        layer_, output_: the trained `ConditionalLayer` and the ``nn.Linear`` after it, in evaluation mode.
        classes_: the labels.
        train_loss_: (max_epochs,) mean loss in training, in nats.
        validation_error_: (max_epochs,) share of the validation part misclassified.
        n_features_in_: number of features.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = ConditionalClassifier(max_epochs=4, random_state=0).fit(X[:1200] / 16, y[:1200])
    >>> classifier.score(X[1200:] / 16, y[1200:]) > 0.8
    True
    >>> round(classifier.layer_.active_fraction, 1)
    0.1
    """

    layer_: ConditionalLayer
    output_: nn.Linear
    classes_: NDArray[Any]
    train_loss_: NDArray[np.float64]
    validation_error_: NDArray[np.float64]
    n_features_in_: int

    def __init__(
        self,
        n_units: int = 200,
        gater_features: int = 40,
        estimator: GateEstimator = "straight_through",
        sparsity_target: float = 0.1,
        penalty_weight: float | None = None,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        gater_learning_rate_scale: float = 1.0,
        max_norm: float = 2.0,
        batch_size: int = 32,
        max_epochs: int = 40,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_units = n_units
        self.gater_features = gater_features
        self.estimator = estimator
        self.sparsity_target = sparsity_target
        self.penalty_weight = penalty_weight
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.gater_learning_rate_scale = gater_learning_rate_scale
        self.max_norm = max_norm
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> ConditionalClassifier:
        """Train on X, (n, features), with labels y, (n,); raises ValueError for X that is not finite."""
        _check_positive("learning_rate", self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        _check_positive("gater_learning_rate_scale", self.gater_learning_rate_scale)
        _check_positive("max_norm", self.max_norm)
        _check_count("batch_size", self.batch_size)
        _check_count("max_epochs", self.max_epochs)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be strictly between 0 and 1, got {self.validation_fraction}"
            )
        features, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        inputs, targets = torch.from_numpy(features), torch.from_numpy(codes)
        n = len(inputs)

        random = check_random_state(self.random_state)
        n_validation = min(max(round(self.validation_fraction * n), 1), n - 1)
        validation, train = torch.from_numpy(random.permutation(n)).tensor_split([n_validation])
        generator = torch.Generator().manual_seed(int(random.randint(2**31)))
        self.layer_ = ConditionalLayer(
            inputs.shape[1],
            self.n_units,
            self.gater_features,
            estimator=self.estimator,
            sparsity_target=self.sparsity_target,
            penalty_weight=self.penalty_weight,
            generator=generator,
        )
        self.output_ = _linear(self.n_units, len(self.classes_), generator)
        network = nn.Sequential(self.layer_, self.output_)
        linear_maps = [module for module in network.modules() if isinstance(module, nn.Linear)]
        gater = [*self.layer_.gater_hidden.parameters(), *self.layer_.gater_out.parameters()]
        main = [*self.layer_.expert.parameters(), *self.output_.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": main},
            {"params": gater, "lr": self.learning_rate * self.gater_learning_rate_scale},
        ]
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, fused=True)

        self.train_loss_ = np.zeros(self.max_epochs)
        self.validation_error_ = np.zeros(self.max_epochs)
        best: dict[str, Any] = {}
        for epoch in range(self.max_epochs):
            network.train()
            order = train[torch.from_numpy(random.permutation(len(train)))]
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                losses = functional.cross_entropy(network(inputs[batch]), targets[batch], reduction="none")
                objective = losses.mean() + self.layer_.sparsity_penalty()
                if self.layer_.baseline is not None:
                    objective = objective + self.layer_.reinforce_surrogate(losses)
                optimizer.zero_grad()
                torch.autograd.backward(objective)
                optimizer.step()
                for linear in linear_maps:
                    linear.weight.data.renorm_(p=2, dim=0, maxnorm=self.max_norm)
                self.layer_.adapt_penalty()
                self.train_loss_[epoch] += float(losses.detach().sum()) / len(train)
            network.eval()
            self.layer_.calibrate(inputs[train])
            with torch.no_grad():
                wrong = network(inputs[validation]).argmax(1) != targets[validation]
            self.validation_error_[epoch] = float(wrong.double().mean())
            if self.validation_error_[epoch] < self.validation_error_[:epoch].min(initial=math.inf):
                best = copy.deepcopy(network.state_dict())
        network.load_state_dict(best)
        return self

    @torch.no_grad()
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Probabilities of the classes, (n, classes), in the order of `classes_`."""
        check_is_fitted(self)
        inputs = torch.from_numpy(validate_data(self, X, dtype=np.float32, reset=False))
        probabilities: Tensor = self.output_(self.layer_.sparse_forward(inputs)).softmax(1)
        return probabilities.numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest label of each row of X, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return cast("NDArray[Any]", self.classes_[best])


@numba.njit(cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator, unused-ignore]
def _compute_active(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    x: NDArray[np.floating],
    gates: NDArray[np.floating],
    units: NDArray[np.int64],
    examples: NDArray[np.int64],
    output: NDArray[np.floating],
) -> None:
    """``output[e, u] = gates[e, u] * (weight[u] @ x[e] + bias[u])`` for each pair (u, e)."""
    for pair in range(len(units)):
        unit, example = units[pair], examples[pair]
        total = bias[unit]
        for feature in range(x.shape[1]):
            total += weight[unit, feature] * x[example, feature]
        output[example, unit] = gates[example, unit] * total


def _linear(
    in_features: int, out_features: int, generator: torch.Generator | None, gain: float = 1.0
) -> nn.Linear:
    """A linear map with uniform weights of the paper's width and no bias at first."""
    device = torch.get_default_device() if generator is None else generator.device
    # Made without nn.Linear's own initial weights, which would draw from the global generator.
    linear = nn.Linear(in_features, out_features, device="meta").to_empty(device=device)
    bound = gain * math.sqrt(6 / (in_features + out_features))
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def _sqrt_sigmoid(logits: Tensor) -> Tensor:
    # The root of sigmoid itself has an infinite derivative once it underflows to 0.
    return (0.5 * functional.logsigmoid(logits)).exp()


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: half precision is too coarse to draw from."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.rand(like.shape, dtype=dtype, device=like.device, generator=generator)


def _bernoulli(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    return _uniform(probabilities, generator) < probabilities


@torch.no_grad()
def _second_moments(samples: Tensor, probabilities: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the batch of ``(h - p)^2 L`` and ``(h - p)^2``, (units,) each."""
    _check_batch(samples, probabilities, losses)
    squares = (samples - probabilities).square()
    return (squares * losses[:, None]).mean(0), squares.mean(0)


def _check_batch(samples: Tensor, probabilities: Tensor, losses: Tensor) -> None:
    if samples.ndim != 2 or len(samples) == 0:
        raise ValueError(f"samples must have shape (n, units) with n at least 1, got {tuple(samples.shape)}")
    if probabilities.shape != samples.shape:
        shapes = f"{tuple(samples.shape)} of samples, got {tuple(probabilities.shape)}"
        raise ValueError(f"probabilities must have the shape {shapes}")
    if losses.shape != samples.shape[:1]:
        raise ValueError(f"losses must have shape ({len(samples)},), got {tuple(losses.shape)}")


def _check_logits(logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}")
    finite = logits.isfinite()
    if not finite.all():
        raise ValueError(f"logits must be finite, got {logits[~finite][0].item()} among them")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}")


def _check_nonnegative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value}")
