"""Contractive recurrent depth: one shared block, applied again and again, in place of a stack of layers.

Guillaume Godin, "SCORE: Replacing Layer Stacking with Contractive Recurrent Depth", 2026, arXiv 2603.10544.

With v(h) = F(h) - h, a step of size dt solves dh/dt = v(h) by an explicit Runge-Kutta method. Euler's is

    h <- h + dt v(h) = (1 - dt) h + dt F(h),

which is (1 - dt + dt q)-Lipschitz for a q-Lipschitz block F, so a contraction for q < 1. F returns a state,
not an increment: a transformer block keeps the residuals inside it and gets no further one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Integrator = Literal["euler", "heun", "midpoint", "rk4"]
Update = Literal["plain", "residual", "contractive"]

# How far each stage goes along the velocity of the stage before it, and its weight in the step.
_STAGES: dict[str, tuple[tuple[float, float], ...]] = {
    "euler": ((0, 1),),
    "heun": ((0, 1 / 2), (1, 1 / 2)),
    "midpoint": ((0, 0), (1 / 2, 1)),
    "rk4": ((0, 1 / 6), (1 / 2, 1 / 3), (1 / 2, 1 / 3), (1, 1 / 6)),
}


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_dt(dt: float) -> None:
    if not 0 < dt <= 1:
        raise ValueError(f"dt must be above 0 and at most 1, got {dt}")


def _apply(block: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """F(h), in the type of h: under autocast a block may return a narrower one."""
    target = block(h)
    if target.shape != h.shape:
        raise ValueError(
            f"the block must return the shape {tuple(h.shape)} of its state, got {tuple(target.shape)}"
        )
    return target.to(h.dtype)


def contractive_step(
    h: Tensor,
    block: Callable[[Tensor], Tensor],
    dt: float | Tensor,
    integrator: Integrator = "euler",
) -> Tensor:
    """One step of dh/dt = block(h) - h, by default ``(1 - dt) h + dt block(h)``.

    Godin, 2026, arXiv 2603.10544. The block is evaluated once by "euler", twice by "heun" and "midpoint",
    four times by "rk4". A block with dropout draws a new mask each time.

    Arguments:
        h: the state, of any shape.
        block: F, which returns a state of the same shape.
        dt: step size in (0, 1], or a tensor of step sizes that broadcasts against h. A tensor's values are
            not checked, so that nothing waits for its device.
        integrator: the Runge-Kutta method.

    Returns the next state, of the shape and type of h.

    Raises ValueError for a number dt outside (0, 1], an unknown integrator and a block that returns another
    shape.

    >>> contractive_step(torch.tensor([4.0]), torch.zeros_like, 0.25)
    tensor([3.])
    >>> contractive_step(torch.tensor([4.0]), torch.zeros_like, 0.25, "heun")  # exp(-0.25) = 0.7788
    tensor([3.1250])
    """
    _check_choice("integrator", integrator, _STAGES)
    if isinstance(dt, Tensor):
        dt = dt.to(h)
    else:
        _check_dt(dt)
    if integrator == "euler":
        return torch.lerp(h, _apply(block, h), dt)
    stage = h
    velocities: list[Tensor] = []
    for reach, _ in _STAGES[integrator]:
        if velocities:
            stage = h + (reach * dt) * velocities[-1]
        velocities.append(_apply(block, stage) - stage)
    weighted = (weight * v for (_, weight), v in zip(_STAGES[integrator], velocities, strict=True) if weight)
    return h + dt * functools.reduce(torch.add, weighted)


class ContractiveDepth(nn.Module):
    """A block applied `n_steps` times by contractive steps, in place of a stack of so many blocks: SCORE.

    Godin, 2026, arXiv 2603.10544. Several of them in an ``nn.Sequential`` are the paper's M-SCORE.

    Arguments:
        block: F, which returns a state of its input's shape.
        n_steps: how often the step is taken; the number of parameters of the block does not depend on it.
        dt: step size in (0, 1]; 1 with "euler" is plain recursion. Not read with `learnable_dt`.
        integrator: "euler", "heun", "midpoint" or "rk4".
        learnable_dt: learn a size for each step, ``0.1 + 0.4 sigmoid(a_t)`` in [0.1, 0.5], from 0.3 on. The
            a_t are the parameter `step_logits`; keep it out of weight decay, which would draw the sizes
            to 0.3.
        norm: applied to the state after each step, for example an ``nn.LayerNorm``.

    Raises ValueError for n_steps below 1, dt outside (0, 1] and an unknown integrator.

    >>> _ = torch.manual_seed(0)
    >>> stack = nn.Sequential(*(DenseBlock(64) for _ in range(6)))
    >>> shared = ContractiveDepth(DenseBlock(64), n_steps=6, dt=0.5)
    >>> shared(torch.randn(8, 64)).shape
    torch.Size([8, 64])
    >>> sum(p.numel() for p in stack.parameters()), sum(p.numel() for p in shared.parameters())
    (25728, 4288)
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        n_steps: int = 4,
        dt: float = 0.5,
        integrator: Integrator = "euler",
        learnable_dt: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_positive("n_steps", n_steps)
        _check_dt(dt)
        _check_choice("integrator", integrator, _STAGES)
        self.block = block
        self.n_steps = n_steps
        self.dt = dt
        self.integrator = integrator
        self.step_logits = nn.Parameter(torch.zeros(n_steps)) if learnable_dt else None
        self.norm = norm

    def extra_repr(self) -> str:
        dt = "learned" if self.step_logits is not None else self.dt
        return f"n_steps={self.n_steps}, dt={dt}, integrator={self.integrator!r}"

    def step_sizes(self) -> Tensor:
        """The size of each step, (n_steps,); differentiable if they are learned.

        >>> ContractiveDepth(DenseBlock(4), n_steps=3, learnable_dt=True).step_sizes().detach()
        tensor([0.3000, 0.3000, 0.3000])
        """
        if self.step_logits is None:
            return torch.full((self.n_steps,), self.dt)
        return 0.1 + 0.4 * torch.sigmoid(self.step_logits)

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The state after all steps, of the shape of h; further arguments go to the block each time.

        Raises ValueError if the block returns another shape.
        """
        block = functools.partial(_call, self.block, args, kwargs)
        learned = self.step_logits is not None
        sizes: Sequence[float | Tensor] = self.step_sizes().unbind() if learned else (self.dt,) * self.n_steps
        for dt in sizes:
            h = contractive_step(h, block, dt, self.integrator)
            if self.norm is not None:
                h = self.norm(h)
        return h


def _call(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], h: Tensor) -> Tensor:
    result: Tensor = block(h, *args, **kwargs)
    return result


class StackedDepth(nn.Module):
    """Blocks applied one after the other: what contractive depth is compared with.

    Godin, 2026, arXiv 2603.10544. The update of block F is "plain" ``F(h)``, "residual" ``h + F(h)`` or
    "contractive" ``(1 - dt) h + dt F(h)``, the paper's skip05 at dt = 0.5.

    Arguments:
        blocks: in the order in which they are applied; the same one may stand there more than once, and then
            shares its parameters.
        update: how a block's output becomes the next state.
        dt: step size in (0, 1] of the contractive update; the others do not read it.

    Raises ValueError for no blocks, an unknown update and dt outside (0, 1].

    >>> block = DenseBlock(4)
    >>> tied = StackedDepth([block] * 3, update="contractive", dt=0.5)
    >>> h = torch.randn(2, 4)
    >>> torch.equal(tied(h), ContractiveDepth(block, n_steps=3, dt=0.5)(h))
    True
    """

    def __init__(self, blocks: Sequence[nn.Module], *, update: Update = "plain", dt: float = 0.5) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks must hold at least one block, got none")
        _check_choice("update", update, get_args(Update))
        _check_dt(dt)
        self.blocks = nn.ModuleList(blocks)
        self.update = update
        self.dt = dt

    def extra_repr(self) -> str:
        return f"update={self.update!r}" + (f", dt={self.dt}" if self.update == "contractive" else "")

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The state after all blocks; further arguments go to each of them.

        Raises ValueError if a block of a residual or contractive update returns another shape.
        """
        for module in self.blocks:
            block = functools.partial(_call, module, args, kwargs)
            if self.update == "plain":
                h = block(h)
            elif self.update == "residual":
                h = h + _apply(block, h)
            else:
                h = contractive_step(h, block, self.dt)
        return h


class DenseBlock(nn.Sequential):
    """The block of the paper's multilayer perceptrons: LayerNorm, dropout, linear map, LeakyReLU(0.01).

    Godin, 2026, arXiv 2603.10544.

    Arguments:
        dim: width of the input (…, dim) and the output (…, dim).
        dropout: probability of dropping an element in training.

    Raises ValueError for dim below 1 or a dropout outside [0, 1].

    >>> DenseBlock(8)(torch.randn(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, *, dropout: float = 0.0) -> None:
        _check_positive("dim", dim)
        super().__init__(nn.LayerNorm(dim), nn.Dropout(dropout), nn.Linear(dim, dim), nn.LeakyReLU(0.01))


class TransformerBlock(nn.Module):
    """The block of the paper's language models: ``u = x + Attn(LN(x))``, ``F(x) = u + FF(LN(u))``.

    Godin, 2026, arXiv 2603.10544. Attention is causal, of several heads, with a bias on its output projection
    only; FF is a linear map to 4 dim, ReLU and a linear map back. Attention and FF each end in dropout.

    Arguments:
        dim: width of the input (B, T, dim) and the output (B, T, dim).
        n_heads: number of heads, a divisor of dim.
        dropout: probability of dropping an element in training.

    Raises ValueError for sizes below 1, a dim that n_heads does not divide, and a dropout outside [0, 1].

    >>> TransformerBlock(16, 4)(torch.randn(2, 10, 16)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(self, dim: int, n_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_positive("dim", dim)
        _check_positive("n_heads", n_heads)
        if dim % n_heads:
            raise ValueError(f"n_heads must divide dim={dim}, got {n_heads}")
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.projection = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.ReLU(),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """F(x), (B, T, dim), for x (B, T, dim); token t sees tokens 0 to t only."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = heads.transpose(1, 3).unbind(2)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        u = x + self.dropout(self.projection(attended.transpose(1, 2).flatten(2)))
        result: Tensor = u + self.feed_forward(u)
        return result


class DirectedMessagePassing(nn.Module):
    """A directed message passing network (D-MPNN) whose messages are updated by contractive steps.

    Godin, 2026, arXiv 2603.10544. Each directed edge e from s to t has a state H_e, from ``relu(H0_e)`` on
    with ``H0_e = W_i [x_s; edge_e]``, and the shared block

        F(H)_e = relu(H0_e + W_h (sum of H_f over all edges f that end in s, minus H_reverse(e))).

    The output of node a is ``relu(W_o [x_a; sum of H_f over all edges f that end in a])``. Only W_o has a
    bias. ``contractive=False`` is the D-MPNN of Yang et al. (2019), whose depth is ``n_steps + 1``.

    Arguments:
        node_dim, edge_dim: numbers of features of a node and of an edge.
        hidden_dim: width of the messages and of the output.
        n_steps: number of updates of the messages.
        dt: step size in (0, 1]; not read with ``contractive=False``.
        integrator: "euler", "heun", "midpoint" or "rk4"; not read with ``contractive=False``.
        contractive: if False, the messages are replaced, ``H <- F(H)``.

    Raises ValueError for sizes below 1, edge_dim below 0, dt outside (0, 1] and an unknown integrator.

    >>> _ = torch.manual_seed(0)
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])  # three atoms in a row
    >>> reverse_edge = torch.tensor([1, 0, 3, 2])
    >>> network = DirectedMessagePassing(5, 2, 16)
    >>> network(torch.randn(3, 5), torch.randn(4, 2), edge_index, reverse_edge).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        *,
        n_steps: int = 4,
        dt: float = 0.5,
        integrator: Integrator = "euler",
        contractive: bool = True,
    ) -> None:
        super().__init__()
        _check_positive("node_dim", node_dim)
        if edge_dim < 0:
            raise ValueError(f"edge_dim must be at least 0, got {edge_dim}")
        _check_positive("hidden_dim", hidden_dim)
        _check_positive("n_steps", n_steps)
        _check_dt(dt)
        _check_choice("integrator", integrator, _STAGES)
        self.node_dim = node_dim
        self.edge_dim = edge_dim
        self.n_steps = n_steps
        self.dt = dt
        self.integrator = integrator
        self.contractive = contractive
        self.W_i = nn.Linear(node_dim + edge_dim, hidden_dim, bias=False)
        self.W_h = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.W_o = nn.Linear(node_dim + hidden_dim, hidden_dim)

    def extra_repr(self) -> str:
        step = (
            f", dt={self.dt}, integrator={self.integrator!r}" if self.contractive else ", contractive=False"
        )
        return f"n_steps={self.n_steps}{step}"

    def forward(self, nodes: Tensor, edges: Tensor, edge_index: Tensor, reverse_edge: Tensor) -> Tensor:
        """The output of each node, (A, hidden_dim). A batch of graphs is one graph of several parts.

        Arguments:
            nodes: (A, node_dim) features.
            edges: (E, edge_dim) features; both directions of a bond are edges.
            edge_index: (2, E) integers, the source and the target of each edge.
            reverse_edge: (E,) integers, the number of each edge's reverse.

        Raises TypeError for indices that are not int64, and ValueError for other shapes, for indices out of
        range and for a reverse_edge that is not its own inverse or does not swap source and target.
        """
        self._check_graph(nodes, edges, edge_index, reverse_edge)
        source, target = edge_index
        initial = self.W_i(torch.cat((nodes.index_select(0, source), edges), dim=1))

        def gather(h: Tensor) -> Tensor:
            return h.new_zeros(len(nodes), h.shape[1]).index_add(0, target, h)

        def update(h: Tensor) -> Tensor:
            incoming = gather(h).index_select(0, source) - h.index_select(0, reverse_edge)
            return functional.relu(initial + self.W_h(incoming))

        h = functional.relu(initial)
        for _ in range(self.n_steps):
            h = contractive_step(h, update, self.dt, self.integrator) if self.contractive else update(h)
        return functional.relu(self.W_o(torch.cat((nodes, gather(h)), dim=1)))

    def _check_graph(self, nodes: Tensor, edges: Tensor, edge_index: Tensor, reverse_edge: Tensor) -> None:
        n_nodes, n_edges = len(nodes), len(edges)
        for name, tensor, shape in (
            ("nodes", nodes, (n_nodes, self.node_dim)),
            ("edges", edges, (n_edges, self.edge_dim)),
            ("edge_index", edge_index, (2, n_edges)),
            ("reverse_edge", reverse_edge, (n_edges,)),
        ):
            if tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
        for name, index, size in (
            ("edge_index", edge_index, n_nodes),
            ("reverse_edge", reverse_edge, n_edges),
        ):
            if index.dtype != torch.int64:
                raise TypeError(f"{name} must be int64, got {index.dtype}")
            if n_edges and (index.min() < 0 or index.max() >= size):
                raise ValueError(f"{name} must lie in 0 to {size - 1}, got {index.min()} to {index.max()}")
        # A reverse that swaps source and target, and is its own inverse, is a permutation.
        swaps = edge_index.index_select(1, reverse_edge).flip(0) == edge_index
        returns = reverse_edge.index_select(0, reverse_edge) == torch.arange(n_edges, device=edges.device)
        if not (swaps & returns).all():
            raise ValueError(
                "reverse_edge must be its own inverse and swap the source and target of each edge"
            )


class ContractiveGPT(nn.Module):
    """A character-level language model in which a shared transformer block takes the place of the stack.

    Godin, 2026, arXiv 2603.10544: token and learned position embeddings, the body, LayerNorm, a linear head.
    The embeddings start at a standard deviation of ``dim ** -0.5``.

    Arguments:
        vocab_size: number of tokens.
        context: longest sequence.
        dim: width, a multiple of n_heads.
        n_heads: number of attention heads.
        n_blocks: number of different blocks; each is applied n_steps times before the next.
        n_steps: how often each block is applied; not read with ``contractive=False``.
        dt: step size in (0, 1]; not read with ``contractive=False``.
        integrator: "euler", "heun", "midpoint" or "rk4"; not read with ``contractive=False``.
        contractive: if False, the body is the plain stack of n_blocks blocks.
        dropout: probability of dropping an element in training.

    Raises ValueError for sizes below 1, a dim that n_heads does not divide, dt outside (0, 1], an unknown
    integrator and a dropout outside [0, 1].

    >>> _ = torch.manual_seed(0)
    >>> model = ContractiveGPT(65, 32, n_steps=4)
    >>> model(torch.randint(65, (2, 32))).shape
    torch.Size([2, 32, 65])
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        *,
        dim: int = 64,
        n_heads: int = 4,
        n_blocks: int = 1,
        n_steps: int = 6,
        dt: float = 0.5,
        integrator: Integrator = "euler",
        contractive: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_positive("vocab_size", vocab_size)
        _check_positive("context", context)
        _check_positive("n_blocks", n_blocks)
        self.context = context
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(context, dim)
        for embedding in (self.token_embedding, self.position_embedding):
            # As the author's models start, whose framework's default this is; PyTorch's is 1.
            nn.init.normal_(embedding.weight, std=dim**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab_size)
        # The blocks come last, so that from one seed all depths start with the same first block and the rest.
        blocks = [TransformerBlock(dim, n_heads, dropout=dropout) for _ in range(n_blocks)]
        depths = [ContractiveDepth(b, n_steps=n_steps, dt=dt, integrator=integrator) for b in blocks]
        self.body = nn.Sequential(*(depths if contractive else blocks))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at each position, (B, T, vocab_size).

        Arguments:
            tokens: (B, T) integers below vocab_size, with T at most `context`.

        Raises TypeError for tokens that are not int64 or int32, ValueError for another shape or a longer
        sequence, and IndexError for a token out of range.
        """
        if tokens.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"tokens must be int64 or int32, got {tokens.dtype}")
        if tokens.ndim != 2 or tokens.shape[1] > self.context:
            shape = tuple(tokens.shape)
            raise ValueError(f"tokens must have shape (B, T) with T at most {self.context}, got {shape}")
        positions = self.position_embedding.weight[: tokens.shape[1]]
        h = self.body(self.token_embedding(tokens) + positions)
        logits: Tensor = self.head(self.norm(h))
        return logits
