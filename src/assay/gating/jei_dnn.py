"""Early exits and the gates that choose among them, trained together on a frozen backbone.

Paper: Florence Regol, Joud Chataoui and Mark Coates, "Jointly-Learned Exit and Inference for a Dynamic Neural
Network: JEI-DNN", 2023, arXiv 2310.09163.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

ExitModel = Literal["marginal", "hazard"]
ConfidenceMetric = Literal["max_probability", "entropy", "margin"]
HeadLoss = Literal["weighted", "uniform"]

_FINAL_LEARNING_RATE = 2e-4
_CACHING_BATCH_SIZE = 512
_CHANGED_BY_TRAINING_MODE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class EarlyExitPrediction:
    """What `EarlyExitNetwork.predict` answers for n inputs.

    `labels` (n,) are the predicted classes, `probabilities` (n, C) the class probabilities at the exit taken,
    `exits` (n,) the 0-based exits and `mean_cost` the mean cost of the exits taken, 1 being the full network.
    """

    labels: Tensor
    probabilities: Tensor
    exits: Tensor
    mean_cost: float


def uncertainty_features(logits: Tensor) -> Tensor:
    """What a gate sees of an exit's logits, detached from them (Regol et al., 2023, arXiv 2310.09163).

    With p the class probabilities: the largest p, the entropy of p, the margin between the two largest, and
    the entropy of p² normalised to sum to 1; entropies in nats.

    Arguments:
        logits: (n, C) with C >= 2.

    Returns (n, 4), in the order above. Raises ValueError for another shape or values that are not finite.

    >>> logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float64)
    >>> [[round(value, 3) for value in row] for row in uncertainty_features(logits).tolist()]
    [[0.5, 0.693, 0.0, 0.693], [0.75, 0.562, 0.5, 0.325]]
    """
    _check_logits(logits)
    return _features(logits)


def exit_distribution(gates: Tensor, model: ExitModel = "marginal") -> Tensor:
    """The probability of leaving at each exit, given the gates' outputs g (Regol et al., 2023).

    * "marginal": ``P_l = max(0, min(g_l, 1 - (g_1 + … + g_{l-1})))``. The g add up, so hesitant gates leave
      nothing to the deep exits.
    * "hazard": ``P_l = g_l (1 - g_1) … (1 - g_{l-1})``.

    The last exit takes what remains.

    Arguments:
        gates: (n, L - 1) in [0, 1], one column for each exit but the last.
        model: how the outputs are read.

    Returns (n, L), rows sum to 1. Raises ValueError for gates of another shape or range, or an unknown model.

    >>> gates = torch.tensor([[0.3, 0.6, 0.9]])
    >>> [round(p, 3) for p in exit_distribution(gates)[0].tolist()]
    [0.3, 0.6, 0.1, 0.0]
    >>> [round(p, 3) for p in exit_distribution(gates, "hazard")[0].tolist()]
    [0.3, 0.42, 0.252, 0.028]
    """
    _check_gates(gates, model)
    survival = _survival(gates, model)
    return survival - functional.pad(survival[:, 1:], (0, 1))


def exit_index(gates: Tensor, model: ExitModel = "marginal") -> Tensor:
    """The exit taken: the first that an input which has come so far leaves at with probability 0.5 or more.

    Arguments and errors are those of `exit_distribution`. Returns (n,), 0-based; L - 1 where none is.

    >>> gates = torch.tensor([[0.1, 0.25, 0.4]])
    >>> exit_index(gates).item(), exit_index(gates, "hazard").item()
    (2, 3)
    """
    _check_gates(gates, model)
    survival = _survival(gates, model)
    return _first(_leaves(survival[:, :-1], survival[:, 1:]))


def gate_targets(losses: Tensor, costs: Tensor, cost_weight: float) -> Tensor:
    """What each gate should answer: 1 from the exit with the least ``loss + cost_weight * cost`` on, else 0.

    Arguments:
        losses: (n, L), the loss of each input at each exit.
        costs: (L,), the cost of each exit.
        cost_weight: price of the full network's cost in units of the loss, at least 0.

    Returns (n, L - 1) of 0.0 and 1.0; of equally good exits the first counts. Raises ValueError for shapes
    that do not match or a negative cost_weight.

    >>> losses, costs = torch.tensor([[1.0, 0.4, 0.39, 0.1]]), torch.tensor([0.25, 0.5, 0.75, 1.0])
    >>> gate_targets(losses, costs, 2.0).tolist()
    [[0.0, 1.0, 1.0]]
    """
    if losses.ndim != 2 or losses.shape[1] < 2:
        raise ValueError(f"losses must have shape (n, L) with L >= 2, got {tuple(losses.shape)}")
    if costs.shape != losses.shape[1:]:
        raise ValueError(f"costs must have shape ({losses.shape[1]},), got {tuple(costs.shape)}")
    _check_cost_weight(cost_weight)
    targets = _from_exit_on(_best_exit(losses, costs, cost_weight), losses.shape[1] - 1)
    return targets.to(losses.dtype)


class EarlyExitNetwork(nn.Module):
    """A frozen network with a classifier at each stage and a gate at each but the last.

    Regol, Chataoui and Coates, 2023, arXiv 2310.09163. An input passes stage after stage; after each, the
    stage's head classifies it, and a gate, which sees `uncertainty_features` of that answer, lets it leave or
    sends it on. `fit_joint` trains heads and gates; `predict` runs the later stages only for inputs that are
    still there.

    Arguments:
        stages: the backbone in L >= 2 consecutive parts. They are frozen and kept in evaluation mode.
        heads: L modules; head l maps the output of stage l to (n, C) logits, so pooling and normalisation
            belong to it. The last is the backbone's own and is frozen too. If a head is an `nn.Sequential`,
            training computes its leading fixed modules once, with the stages.
        costs: of leaving at each exit, positive and not decreasing, divided by the last; they should count
            the heads and gates passed. Default (1, 2, …, L) / L.
        exit_model: see `exit_distribution`.

    `gates` are L - 1 `nn.Linear(4, 1)`, `costs` is a buffer.

    Raises ValueError for fewer than two stages, another number of heads, unusable costs or an unknown
    exit_model.

    >>> _ = torch.manual_seed(0)
    >>> stages = [nn.Sequential(nn.Linear(2, 16), nn.ReLU()), nn.Sequential(nn.Linear(16, 16), nn.ReLU())]
    >>> network = EarlyExitNetwork(stages, [nn.Linear(16, 2), nn.Linear(16, 2)])
    >>> X = torch.randn(300, 2)
    >>> y = (X[:, 0] > 0).long()
    >>> network = fit_joint(network, X[:200], y[:200], X[200:], y[200:], learning_rate=0.1, alternate_every=2)
    >>> prediction = network.predict(X)
    >>> prediction.probabilities.shape, prediction.mean_cost < 1
    (torch.Size([300, 2]), True)
    """

    costs: Tensor

    def __init__(
        self,
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        *,
        costs: Sequence[float] | None = None,
        exit_model: ExitModel = "marginal",
    ) -> None:
        super().__init__()
        if len(stages) < 2:
            raise ValueError(f"stages must be at least 2, got {len(stages)}")
        if len(heads) != len(stages):
            raise ValueError(f"heads must be as many as the {len(stages)} stages, got {len(heads)}")
        _check_choice("exit_model", exit_model, get_args(ExitModel))
        self.exit_model = exit_model
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.gates = nn.ModuleList(nn.Linear(4, 1) for _ in stages[1:])
        if costs is None:
            costs = range(1, len(stages) + 1)
        relative = torch.tensor([float(cost) for cost in costs])
        _check_costs(relative, len(stages))
        self.register_buffer("costs", relative / relative[-1])
        self.stages.requires_grad_(False)
        self.heads[-1].requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_vision_transformer(
        cls,
        model: nn.Module,
        *,
        costs: Sequence[float] | None = None,
        exit_model: ExitModel = "marginal",
    ) -> EarlyExitNetwork:
        """An exit after every block of a vision transformer: the model's last norm, pooling, a linear head.

        `model` is one of timm's or torchvision's VisionTransformer or of the T2T-ViT authors' T2T_ViT, known
        by their attributes and shared, not copied. The linear heads are new, all but the last.

        Raises ValueError for a model without those attributes, one that pools by attention, or one whose
        last layer is not a single `nn.Linear`.
        """
        parts: Any = model
        if hasattr(model, "_process_input"):
            blocks, norm, classifier = parts.encoder.layers, parts.encoder.ln, parts.heads
        elif hasattr(model, "_pos_embed") or hasattr(model, "tokens_to_token"):
            blocks, norm, classifier = parts.blocks, parts.norm, parts.head
        else:
            raise ValueError(
                f"model must be a VisionTransformer of timm or torchvision or a T2T_ViT, got {type(model)}"
            )
        if isinstance(classifier, nn.Sequential) and len(classifier) == 1:
            classifier = classifier[0]
        if not isinstance(classifier, nn.Linear) or hasattr(model, "head_dist"):
            raise ValueError(f"model must end in one nn.Linear, got {type(model)} with head {classifier}")
        pooling = getattr(model, "global_pool", "token")
        if pooling not in ("token", "avg"):
            raise ValueError(f"model.global_pool must be 'token' or 'avg', got {pooling!r}")
        pool = _Pool(getattr(parts, "num_prefix_tokens", 1) if pooling == "avg" else None)
        fixed = nn.Sequential(norm, pool, getattr(parts, "fc_norm", nn.Identity())).requires_grad_(False)
        weight = classifier.weight
        linears = [nn.Linear(classifier.in_features, classifier.out_features) for _ in blocks[1:]]
        stages = [nn.Sequential(_Tokens(model), blocks[0]), *blocks[1:]]
        heads = [nn.Sequential(*fixed, linear) for linear in (*linears, classifier)]
        return cls(stages, heads, costs=costs, exit_model=exit_model).to(weight.device, weight.dtype)

    def train(self, mode: bool = True) -> EarlyExitNetwork:
        """Training mode for the trainable heads and the gates; the frozen parts stay in evaluation mode."""
        super().train(mode)
        self.stages.eval()
        self.heads[-1].eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits of all L exits, (n, C) each, for a batch `x` of n inputs; every stage is run."""
        logits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            logits.append(head(x))
        return logits

    def logits(self, x: Tensor) -> list[Tensor]:
        """The same as calling the network."""
        return self.forward(x)

    def gate_logits(self, logits: Sequence[Tensor]) -> Tensor:
        """The gates' outputs before the sigmoid, (n, L - 1), for the logits of the exits (that of the last
        may be left out). Raises ValueError for logits of other numbers or shapes or that are not finite."""
        exits = len(self.gates)
        if len(logits) not in (exits, exits + 1):
            raise ValueError(f"logits must be of {exits + 1} exits, got {len(logits)}")
        for each in logits[:exits]:
            _check_logits(each)
        return self._gate_logits(torch.stack(list(logits[:exits]), dim=1))

    def _gate_logits(self, logits: Tensor) -> Tensor:
        """(n, L - 1, C) to (n, L - 1), all gates at once."""
        weight, bias = (
            torch.cat([gate.get_parameter(name) for gate in self.gates]) for name in ("weight", "bias")
        )
        return (_features(logits) * weight).sum(-1) + bias

    @torch.no_grad()
    def predict(self, x: Tensor) -> EarlyExitPrediction:
        """Answers for a batch `x` of n >= 1 inputs, stage by stage, each stage for those that have not left.

        Raises ValueError for an empty batch.
        """
        if not len(x):
            raise ValueError("x must hold at least one input, got none")
        was_training = self.training
        self.eval()
        inputs, order, exits, probabilities = len(x), [], [], []
        remaining = torch.arange(inputs, device=x.device)
        survival: Tensor | None = None
        for level, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            logits = head(x)
            if survival is None:
                survival = logits.new_ones(inputs)
            if level < len(self.gates):
                gate = torch.sigmoid(self.gates[level](_features(logits))).squeeze(-1)
                after = _survives(survival, gate, self.exit_model)
                leaves = _leaves(survival, after)
            else:
                after, leaves = survival, torch.ones_like(survival, dtype=torch.bool)
            left, stays = leaves.nonzero().squeeze(-1), (~leaves).nonzero().squeeze(-1)
            order.append(remaining[left])
            exits.append(torch.full_like(left, level))
            probabilities.append(logits[left].softmax(-1))
            if not len(stays):
                break
            if len(left):
                x, remaining, after = x[stays], remaining[stays], after[stays]
            survival = after
        self.train(was_training)
        back = torch.cat(order).argsort()
        taken, by_exit = torch.cat(exits)[back], torch.cat(probabilities)[back]
        cost = float(self.costs.double()[taken].mean())
        return EarlyExitPrediction(by_exit.argmax(-1), by_exit, taken, cost)


def fit_heads(
    network: EarlyExitNetwork,
    X: Tensor,
    y: Tensor,
    *,
    epochs: int = 15,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    weights: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> EarlyExitNetwork:
    """Train the heads, each on all inputs and apart from any gate: what exits by threshold start from.

    Stochastic gradient descent on ``Σ_l weights_l CE_l`` over the exits but the last; the learning rate falls
    as a cosine to 2e-4. The outputs of the frozen backbone are computed once and kept: n rows of what each
    head's trainable part reads.

    Arguments:
        network: trained in place; its backbone, last head and gates stay as they are.
        X: (n, …) inputs.
        y: (n,) integer labels in [0, C).
        weights: of the L - 1 heads' losses, at least 0; default all 1.
        generator: draws the order of the samples; default torch's own.
        epochs, batch_size, learning_rate, momentum, weight_decay: of the descent.

    Returns the network. Raises ValueError for unusable data, weights or sizes.
    """
    _check_descent(batch_size, learning_rate, momentum, weight_decay)
    _check_at_least("epochs", epochs, 0)
    exits = len(network.gates)
    if weights is None:
        weights = [1.0] * exits
    if len(weights) != exits or not all(weight >= 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be {exits} finite numbers of at least 0, got {list(weights)}")
    data = _Exits.of(network, X, y)
    optimizer = _sgd([(network.heads[:-1], learning_rate)], momentum, weight_decay)
    return _train(network, data, _weighted_loss(weights), optimizer, epochs, batch_size, generator)


def fit_joint(
    network: EarlyExitNetwork,
    X: Tensor,
    y: Tensor,
    X_val: Tensor,
    y_val: Tensor,
    *,
    cost_weight: float = 0.1,
    warmup_epochs: int = 5,
    epochs: int = 15,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    gate_learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    alternate_every: int = 200,
    max_positive_weight: float = 5.0,
    head_loss: HeadLoss = "weighted",
    generator: torch.Generator | None = None,
) -> EarlyExitNetwork:
    """Train heads and gates together, so that each head learns from the inputs that the gates send it.

    Regol, Chataoui and Coates, 2023, arXiv 2310.09163: find ``min E[Σ_l P_l (CE_l + cost_weight c_l)]`` over
    the gates, which make P, and the heads, which make CE. After a warm-up of the heads alone, with weights
    L, L - 1, …, 2 on their losses, blocks of batches alternate: gates learn `gate_targets` by weighted binary
    cross-entropy with the heads fixed, then heads learn ``Σ_l P_l CE_l`` with the gates fixed.

    Positive targets of gate l weigh ``min((n - n_l) / max(n_l, 0.1), max_positive_weight)``, n_l being how
    many of the n validation inputs have their best exit at l. It is 1 in the first epoch and where n_l = n,
    which leaves nothing to balance: the formula's 0 would stop a gate from learning to let everything out.

    Arguments:
        network: trained in place; its backbone and last head stay as they are.
        X, y: (n, …) inputs and (n,) integer labels in [0, C) to train on.
        X_val, y_val: the same, to balance the gates' targets by.
        cost_weight: the price of cost, at least 0; 0.01 to 7 trace the curve of accuracy against cost.
        warmup_epochs, epochs: of the heads alone, then of both.
        batch_size, momentum, weight_decay: of the descent.
        learning_rate: of the heads; constant in the warm-up, then a cosine down to 2e-4.
        gate_learning_rate: of the gates, with the same decay; default learning_rate.
        alternate_every: batches in a block, counted on across epochs; gates come first. On small data choose
            a few, so that every epoch trains both.
        max_positive_weight: bound of the weights above.
        head_loss: "uniform" trains the heads on ``Σ_l CE_l``, whatever the gates say: the ablation. (The
            authors' released code rescales ``P_l CE_l`` in a way that amounts to it.)
        generator: draws the order of the samples; default torch's own.

    Returns the network. Raises ValueError for unusable data, sizes, rates or names.
    """
    _check_descent(batch_size, learning_rate, momentum, weight_decay)
    _check_cost_weight(cost_weight)
    _check_at_least("warmup_epochs", warmup_epochs, 0)
    _check_at_least("epochs", epochs, 0)
    _check_at_least("alternate_every", alternate_every, 1)
    _check_choice("head_loss", head_loss, get_args(HeadLoss))
    if gate_learning_rate is None:
        gate_learning_rate = learning_rate
    _check_positive("gate_learning_rate", gate_learning_rate)
    _check_positive("max_positive_weight", max_positive_weight)
    data = _Exits.of(network, X, y)
    validation = _Exits.of(network, X_val, y_val, suffix="_val")

    exits = len(network.gates)
    optimizer = _sgd(
        [(network.heads[:-1], learning_rate), (network.gates, gate_learning_rate)], momentum, weight_decay
    )
    warmup = _weighted_loss(range(exits + 1, 1, -1))
    _train(network, data, warmup, optimizer, warmup_epochs, batch_size, generator, decay=False)

    positive_weights = torch.ones_like(network.costs[:-1])
    batches = 0

    def loss(batch: _Exits) -> Tensor:
        nonlocal batches
        gates_learn = batches // alternate_every % 2 == 0
        batches += 1
        if gates_learn:
            return _gate_loss(network, batch, cost_weight, positive_weights)
        return _head_loss(network, batch, head_loss)

    @torch.no_grad()
    def balance() -> None:
        nonlocal positive_weights
        best = validation.best_exit(validation.logits(), network.costs, cost_weight)
        counts = best.bincount(minlength=exits + 1)[:exits].to(network.costs.dtype)
        ratios = (len(best) - counts) / counts.clamp(min=0.1)
        positive_weights = ratios.clamp(max=max_positive_weight).where(counts < len(best), 1.0)

    return _train(network, data, loss, optimizer, epochs, batch_size, generator, after_epoch=balance)


def threshold_exit(
    logits: Sequence[Tensor], threshold: float, metric: ConfidenceMetric = "max_probability"
) -> Tensor:
    """The first exit whose confidence reaches the threshold, else the last: exits without learned gates.

    Arguments:
        logits: of L >= 2 exits, (n, C) each.
        threshold: one for all exits.
        metric: the largest probability, minus the entropy in nats ("entropy"), or the margin between the two
            largest probabilities.

    Returns (n,), 0-based. Raises ValueError for logits of other or unequal shapes or an unknown metric.

    >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.1, 0.0]])
    >>> threshold_exit([unsure, sure, sure], 0.9).tolist(), threshold_exit([unsure, sure, sure], 1.0).tolist()
    ([1], [2])
    """
    return _first(_confidences(logits, metric) >= threshold)


def threshold_for_budget(
    logits: Sequence[Tensor],
    costs: Sequence[float] | Tensor,
    budget: float,
    metric: ConfidenceMetric = "max_probability",
) -> float:
    """The largest threshold at which the mean cost of `threshold_exit` stays within the budget.

    Arguments:
        logits: of L >= 2 exits on validation inputs, (n, C) each, n >= 1.
        costs: (L,) of leaving at each exit, positive and not decreasing.
        budget: the mean cost wanted, in the units of costs. Below the cheapest exit's cost it counts as that;
            at the last exit's cost or above the threshold is infinite.
        metric: see `threshold_exit`.

    Raises ValueError for unusable logits, costs or metric, or a budget that is not a number.

    >>> logits = [torch.tensor([[0.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [0.0, 5.0]])]
    >>> threshold = threshold_for_budget(logits, [0.5, 1.0], budget=0.75)
    >>> threshold_exit(logits, threshold).tolist()
    [0, 1]
    """
    scores = _confidences(logits, metric)
    if not len(scores):
        raise ValueError("logits must be of at least one input, got none")
    prices = torch.as_tensor(costs, dtype=torch.float64, device=scores.device)
    _check_costs(prices, len(logits))
    if math.isnan(budget):
        raise ValueError(f"budget must be a number, got {budget}")
    # An input goes on after exit l if no score up to there reaches the threshold, so the mean cost rises by
    # (c_{l+1} - c_l) / n wherever the threshold passes one of the running maxima.
    passed, order = scores.cummax(dim=1).values.flatten().sort()
    steps = prices.diff().repeat(len(scores))[order] / len(scores)
    rise = max(budget, float(prices[0])) - float(prices[0])
    affordable = int((steps.cumsum(0) <= rise + 1e-12 * float(prices[-1])).sum())
    return float(passed[affordable]) if affordable < len(passed) else math.inf


def expected_calibration_error(confidence: Tensor, correct: Tensor, n_bins: int = 15) -> float:
    """The gap between confidence and accuracy, weighted over bins of (nearly) equally many predictions.

    Arguments:
        confidence: (n,) in [0, 1], the probability of the predicted class.
        correct: (n,), whether the prediction was right.
        n_bins: number of bins; equal confidences share one.

    Returns a number in [0, 1]. Raises ValueError for other shapes, ranges or n_bins < 1.

    >>> confidence, correct = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([1, 1, 1, 0])
    >>> round(expected_calibration_error(confidence, correct, n_bins=2), 3)
    0.1
    """
    confidence = confidence.detach().double()
    correct = correct.detach().double()
    if confidence.ndim != 1 or not len(confidence):
        raise ValueError(f"confidence must have shape (n,) with n >= 1, got {tuple(confidence.shape)}")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(
            f"confidence must lie in [0, 1], got {float(confidence.min())} to {float(confidence.max())}"
        )
    if correct.shape != confidence.shape:
        raise ValueError(f"correct must have shape {tuple(confidence.shape)}, got {tuple(correct.shape)}")
    _check_at_least("n_bins", n_bins, 1)
    ascending = confidence.sort().values
    ends = ascending[torch.arange(1, n_bins, device=confidence.device) * len(ascending) // n_bins]
    bins = torch.bucketize(confidence, ends, right=True)
    gaps = torch.zeros(n_bins, dtype=torch.float64, device=confidence.device)
    return float(gaps.index_add(0, bins, confidence - correct).abs().sum() / len(confidence))


def conformal_threshold(scores: Tensor, alpha: float) -> float:
    """The score that a new one, exchangeable with these, exceeds with probability alpha at most.

    Split conformal prediction: the ``ceil((n + 1) (1 - alpha))``-th smallest of the n scores. With scores
    ``1 - p_y`` the prediction set of an input is every class with ``p_c >= 1 - threshold``.

    Arguments:
        scores: (n,) of validation inputs.
        alpha: share of inputs whose set may miss the label, in (0, 1).

    Returns the threshold, infinite where n is too small for the alpha. Raises ValueError for other shapes,
    NaN or an alpha out of range.

    >>> round(conformal_threshold(torch.arange(1.0, 100.0), 0.1), 3)
    90.0
    """
    if scores.ndim != 1 or scores.isnan().any():
        raise ValueError(f"scores must have shape (n,) and hold no NaN, got shape {tuple(scores.shape)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    # Rounded first: 1 - 0.1 and the like are not exact, and a hair above an integer would cost a rank.
    rank = math.ceil(round((len(scores) + 1) * (1 - alpha), 9))
    return float(scores.kthvalue(rank).values) if rank <= len(scores) else math.inf


class _Tokens(nn.Module):
    """What a vision transformer's first block reads."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        tokens: Tensor
        if hasattr(model, "_process_input"):  # torchvision
            patches = model._process_input(x)
            class_token = model.class_token.expand(len(patches), -1, -1)
            tokens = model.encoder.dropout(torch.cat((class_token, patches), 1) + model.encoder.pos_embedding)
        elif hasattr(model, "_pos_embed"):  # timm
            tokens = model._pos_embed(model.patch_embed(x))
            for name in ("patch_drop", "norm_pre"):
                tokens = getattr(model, name, nn.Identity())(tokens)
        else:  # T2T-ViT
            patches = model.tokens_to_token(x)
            class_token = model.cls_token.expand(len(patches), -1, -1)
            tokens = model.pos_drop(torch.cat((class_token, patches), 1) + model.pos_embed)
        return tokens


class _Pool(nn.Module):
    """The class token, or the mean of the tokens that follow a number of others."""

    def __init__(self, mean_after: int | None) -> None:
        super().__init__()
        self.mean_after = mean_after

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.mean_after is None else tokens[:, self.mean_after :].mean(1)


@dataclass(frozen=True)
class _Exits:
    """Everything that training asks of n samples after one pass through the frozen parts.

    `classifiers` are the trainable parts of the L - 1 heads, `readings` what each of them reads, (n, …),
    `last_losses` (n,) the cross-entropies at the last exit, `y` (n,) the labels.
    """

    classifiers: list[nn.Module]
    readings: list[Tensor]
    last_losses: Tensor
    y: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, network: EarlyExitNetwork, X: Tensor, y: Tensor, suffix: str = "") -> _Exits:
        """Checks the data, whose arguments' names end in `suffix`."""
        if not len(X):
            raise ValueError(f"X{suffix} must hold at least one sample, got none")
        if y.shape != (len(X),) or y.is_floating_point():
            raise ValueError(
                f"y{suffix} must be {len(X)} integer labels, got {y.dtype} of shape {tuple(y.shape)}"
            )
        fixed, classifiers = zip(*(_split(head) for head in network.heads[:-1]), strict=True)
        readings: list[list[Tensor]] = [[] for _ in fixed]
        last_logits = []
        was_training = network.training
        network.eval()
        device = network.costs.device
        for start in range(0, len(X), _CACHING_BATCH_SIZE):
            x = X[start : start + _CACHING_BATCH_SIZE].to(device)
            for level, stage in enumerate(network.stages):
                x = stage(x)
                if level < len(fixed):
                    readings[level].append(fixed[level](x))
            last_logits.append(network.heads[-1](x))
        network.train(was_training)
        last = torch.cat(last_logits)
        y = y.to(device).long()
        if y.min() < 0 or y.max() >= last.shape[1]:
            wrong = int(y.max() if y.min() >= 0 else y.min())
            raise ValueError(f"y{suffix} must lie in [0, {last.shape[1]}), got {wrong}")
        last_losses = functional.cross_entropy(last, y, reduction="none")
        return cls(list(classifiers), [torch.cat(reading) for reading in readings], last_losses, y)

    def __getitem__(self, rows: Tensor) -> _Exits:
        readings = [reading[rows] for reading in self.readings]
        return _Exits(self.classifiers, readings, self.last_losses[rows], self.y[rows])

    def logits(self) -> Tensor:
        """(n, L - 1, C), with gradients to the classifiers."""
        pairs = zip(self.classifiers, self.readings, strict=True)
        return torch.stack([classifier(reading) for classifier, reading in pairs], dim=1)

    def losses(self, logits: Tensor) -> Tensor:
        """(n, L - 1), the cross-entropies."""
        labels = self.y[:, None].expand(logits.shape[:2])
        return functional.cross_entropy(logits.mT, labels, reduction="none")

    def best_exit(self, logits: Tensor, costs: Tensor, cost_weight: float) -> Tensor:
        return _best_exit(
            torch.cat((self.losses(logits), self.last_losses[:, None]), dim=1), costs, cost_weight
        )


def _split(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The leading part of a head that training cannot change, and the rest."""
    if not isinstance(head, nn.Sequential):
        return nn.Identity(), head
    fixed = 0
    for module in head:
        trainable = any(parameter.requires_grad for parameter in module.parameters())
        if trainable or any(isinstance(part, _CHANGED_BY_TRAINING_MODE) for part in module.modules()):
            break
        fixed += 1
    return head[:fixed], head[fixed:]


_Loss = Callable[[_Exits], Tensor]


def _sgd(
    groups: Sequence[tuple[nn.Module, float]], momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    descents = [{"params": list(part.parameters()), "lr": rate, "initial_lr": rate} for part, rate in groups]
    on = {parameter.device.type for part, _ in groups for parameter in part.parameters()}
    fused = on <= {"cpu", "cuda"}  # the parameters are small: a step is all overhead
    return torch.optim.SGD(descents, momentum=momentum, weight_decay=weight_decay, fused=fused)


def _train(
    network: EarlyExitNetwork,
    data: _Exits,
    loss: _Loss,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch_size: int,
    generator: torch.Generator | None,
    *,
    decay: bool = True,
    after_epoch: Callable[[], None] | None = None,
) -> EarlyExitNetwork:
    was_training = network.training
    for epoch in range(epochs):
        network.train()
        if decay:
            remaining = 0.5 + 0.5 * math.cos(math.pi * epoch / epochs)
            for group in optimizer.param_groups:
                final = min(_FINAL_LEARNING_RATE, group["initial_lr"])
                group["lr"] = final + (group["initial_lr"] - final) * remaining
        for rows in _batches(len(data.y), batch_size, generator, data.y.device):
            # Without gradients of their own in this step, the other phase's parameters stay as they are.
            optimizer.zero_grad()
            torch.autograd.backward(loss(data[rows]))
            optimizer.step()
        if after_epoch is not None:
            network.eval()
            after_epoch()
    network.train(was_training)
    return network


def _batches(
    n: int, batch_size: int, generator: torch.Generator | None, device: torch.device
) -> Iterator[Tensor]:
    drawn_on = None if generator is None else generator.device
    order = torch.randperm(n, generator=generator, device=drawn_on).to(device)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]


def _weighted_loss(weights: Sequence[float]) -> _Loss:
    def loss(batch: _Exits) -> Tensor:
        losses = batch.losses(batch.logits())
        return losses.mean(0) @ losses.new_tensor(list(weights))

    return loss


def _gate_loss(
    network: EarlyExitNetwork, batch: _Exits, cost_weight: float, positive_weights: Tensor
) -> Tensor:
    with torch.no_grad():
        logits = batch.logits()
        targets = _from_exit_on(batch.best_exit(logits, network.costs, cost_weight), len(network.gates))
    return functional.binary_cross_entropy_with_logits(
        network._gate_logits(logits), targets.to(logits.dtype), pos_weight=positive_weights
    )


def _head_loss(network: EarlyExitNetwork, batch: _Exits, head_loss: HeadLoss) -> Tensor:
    logits = batch.logits()
    losses = batch.losses(logits)
    if head_loss == "uniform":
        return losses.sum(1).mean()
    with torch.no_grad():
        survival = _survival(torch.sigmoid(network._gate_logits(logits)), network.exit_model)
        probabilities = survival[:, :-1] - survival[:, 1:]
    return (probabilities * losses).sum(1).mean()


def _features(logits: Tensor) -> Tensor:
    """(…, C) to (…, 4)."""
    logits = logits.detach()
    p = logits.softmax(-1)
    top = p.topk(2, dim=-1).values
    squared = (2 * logits).softmax(-1)  # p^2 / sum p^2
    entropy, squared_entropy = (torch.special.entr(each).sum(-1) for each in (p, squared))
    return torch.stack((top[..., 0], entropy, top[..., 0] - top[..., 1], squared_entropy), dim=-1)


def _survives(survival: Tensor, gate: Tensor, model: ExitModel) -> Tensor:
    """The probability of going on after one more gate."""
    return (survival - gate).relu() if model == "marginal" else survival * (1 - gate)


def _survival(gates: Tensor, model: ExitModel) -> Tensor:
    """(n, L): the probability of reaching each exit, the first being 1."""
    reached = [torch.ones_like(gates[:, 0])]
    for gate in gates.unbind(1):
        reached.append(_survives(reached[-1], gate, model))
    return torch.stack(reached, dim=1)


def _leaves(before: Tensor, after: Tensor) -> Tensor:
    """Whether the conditional probability of leaving, ``1 - after / before``, is at least one half."""
    return after <= before / 2


def _first(leaves: Tensor) -> Tensor:
    """(n, L - 1) of booleans to the first column that holds, L - 1 where none does."""
    return functional.pad(leaves, (0, 1), value=True).to(torch.uint8).argmax(1)


def _best_exit(losses: Tensor, costs: Tensor, cost_weight: float) -> Tensor:
    return (losses + cost_weight * costs).argmin(1)


def _from_exit_on(best: Tensor, exits: int) -> Tensor:
    return torch.arange(exits, device=best.device) >= best[:, None]


def _confidences(logits: Sequence[Tensor], metric: ConfidenceMetric) -> Tensor:
    """(n, L - 1), at every exit but the last."""
    _check_choice("metric", metric, get_args(ConfidenceMetric))
    if len(logits) < 2:
        raise ValueError(f"logits must be of at least 2 exits, got {len(logits)}")
    for each in logits:
        _check_logits(each)
        if each.shape != logits[0].shape:
            raise ValueError(
                f"logits must have one shape, got {tuple(logits[0].shape)} and {tuple(each.shape)}"
            )
    probability, entropy, margin, _ = _features(torch.stack(list(logits[:-1]), dim=1)).unbind(-1)
    return {"max_probability": probability, "entropy": -entropy, "margin": margin}[metric]


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (n, C) with C >= 2, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError(f"logits must be finite, got {float(logits[~logits.isfinite()][0])}")


def _check_gates(gates: Tensor, model: str) -> None:
    _check_choice("model", model, get_args(ExitModel))
    if gates.ndim != 2 or not gates.shape[1]:
        raise ValueError(f"gates must have shape (n, L - 1) with L >= 2, got {tuple(gates.shape)}")
    outside = ~((gates >= 0) & (gates <= 1))
    if outside.any():
        raise ValueError(f"gates must lie in [0, 1], got {float(gates[outside][0])}")


def _check_costs(costs: Tensor, exits: int) -> None:
    if costs.shape != (exits,):
        raise ValueError(f"costs must be {exits} numbers, got shape {tuple(costs.shape)}")
    if not (costs.isfinite().all() and costs[0] > 0 and (costs.diff() >= 0).all()):
        raise ValueError(f"costs must be finite, positive and not decrease, got {costs.tolist()}")


def _check_descent(batch_size: int, learning_rate: float, momentum: float, weight_decay: float) -> None:
    _check_at_least("batch_size", batch_size, 1)
    _check_positive("learning_rate", learning_rate)
    _check_at_least("weight_decay", weight_decay, 0)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")


def _check_cost_weight(cost_weight: float) -> None:
    if not 0 <= cost_weight < math.inf:
        raise ValueError(f"cost_weight must be finite and at least 0, got {cost_weight}")


def _check_at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
