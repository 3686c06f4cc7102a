"""A gradient step moves a task's matrix by a product of thin ones: it is kept as that, not multiplied out.

With K examples, the gradient of a linear layer's weights is δᵀx, of rank K at most. Each task's own weights are then
W + LᵀR with few rows in L and R, and y (W + LᵀR) = yW + (yLᵀ)R needs what all tasks share, once for all of them, and
products as thin as the examples are few. The same holds on the way back through the steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.utils import _pytree as pytree

aten = torch.ops.aten

LARGE = 64 * 64
"""Elements of a matrix from which on factors are faster than it is; below, each call takes as long as its arithmetic."""

THINNER = 2.0
"""How many times fewer numbers the factors of a product must have."""

THICK = 1.5
"""How many times more numbers than the matrix its factors may get, as they add up over the steps; then it is multiplied out."""

FEW = 7
"""Rows of factors up to which their product is a sum that Inductor writes out, and joins with what is done to each element next."""


def factored(graph: GraphModule) -> Callable[..., Any] | None:
    """What the graph computes, with products of thin matrices kept as their factors; None where it has none.

    Equal up to rounding: sums and products are only taken in another order.
    """
    products = (node for node in graph.graph.nodes if node.target is aten.bmm.default)
    if not any(_thin(*(argument.meta["val"] for argument in node.args)) for node in products):
        return None
    return _Factoring(graph).run


@dataclass(frozen=True)
class Factored:
    """A matrix for each task, ``whole + leftᵀ right``, ``[tasks, m, n]``.

    Args:
        left: ``[tasks, k, m]``.
        right: ``[tasks, k, n]``.
        whole: ``[m, n]`` for all tasks, or ``[tasks, m, n]``; 0 where None.
    """

    left: Tensor
    right: Tensor
    whole: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.left.shape[0], self.left.shape[2], self.right.shape[2]))

    @property
    def thick(self) -> bool:
        """Whether the factors have become larger than what they make."""
        (_, m, n), k = self.shape, self.left.shape[1]
        return k * (m + n) > THICK * m * n

    def multiplied(self) -> Tensor:
        if self.left.shape[1] <= FEW:
            product = (self.left[..., None] * self.right[:, :, None]).sum(1)
        else:
            product = torch.bmm(self.left.mT, self.right)
        return product if self.whole is None else product + self.whole

    def after(self, x: Tensor) -> Tensor:
        """x · self, of ``[tasks, p, m]``."""
        y = torch.bmm(torch.bmm(x, self.left.mT), self.right)
        if self.whole is None:
            return y
        return y + (torch.bmm(x, self.whole) if self.whole.ndim == 3 else (x.reshape(-1, x.shape[2]) @ self.whole).view_as(y))

    def turned(self) -> "Factored":
        return Factored(self.right, self.left, None if self.whole is None else self.whole.mT)

    def times(self, c: Any) -> "Factored":
        return Factored(c * self.left, self.right, None if self.whole is None else c * self.whole)

    def plus(self, other: "Factored") -> "Factored":
        whole = self.whole if other.whole is None else other.whole if self.whole is None else self.whole + other.whole
        return Factored(torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right], 1), whole)

    def over_tasks(self) -> Tensor:
        """The sum over tasks, ``[m, n]``."""
        total = self.left.flatten(0, 1).mT @ self.right.flatten(0, 1)
        if self.whole is None:
            return total
        return total + (self.whole.sum(0) if self.whole.ndim == 3 else len(self.left) * self.whole)


def _thin(a: Any, b: Any) -> bool:
    """Whether factors of a matrix are smaller than the matrix."""
    (m, k), n = a.shape[1:], b.shape[2]
    return m * n >= LARGE and THINNER * k * (m + n) <= m * n


def _product(a: Any, b: Any) -> Any:
    if isinstance(a, Factored):
        return None if isinstance(b, Factored) else a.turned().after(b.mT).mT
    if isinstance(b, Factored):
        return b.after(a)
    return Factored(a.mT, b) if _thin(a, b) else None


def _shaped(f: Factored, size: Any, **how: Any) -> Any:
    return f if torch.Size(size) == f.shape else None


def _transposed(f: Factored, i: int, j: int) -> Any:
    return f.turned() if {i % 3, j % 3} == {1, 2} else None


def _scaled(a: Any, b: Any) -> Any:
    f, c = (a, b) if isinstance(a, Factored) else (b, a)
    return f.times(c) if isinstance(c, int | float) or (isinstance(c, Tensor) and c.ndim == 0) else None


def _sum(a: Any, b: Any, alpha: float = 1) -> Any:
    if isinstance(a, Factored) and isinstance(b, Factored):
        return a.plus(b if alpha == 1 else b.times(alpha))
    f, other, ours, theirs = (a, b, 1, alpha) if isinstance(a, Factored) else (b, a, alpha, 1)
    if not isinstance(other, Tensor) or other.ndim < 2 or other.shape[-2:] != f.shape[-2:] or (other.ndim == 3 and other.shape[0] == 1):
        return None
    f, other = f if ours == 1 else f.times(ours), other if theirs == 1 else theirs * other
    return Factored(f.left, f.right, other if f.whole is None else f.whole + other)


def _over_tasks(f: Factored, dims: list[int], keepdim: bool = False) -> Any:
    if dims not in ([0], [-3]):
        return None
    return f.over_tasks().unsqueeze(0) if keepdim else f.over_tasks()


RULES: Mapping[Any, Callable[..., Any]] = {
    aten.bmm.default: _product,
    aten.view.default: _shaped,
    aten._unsafe_view.default: _shaped,
    aten.expand.default: _shaped,
    aten.transpose.int: _transposed,
    aten.detach.default: lambda f: Factored(f.left.detach(), f.right.detach(), None if f.whole is None else f.whole.detach()),
    aten.neg.default: lambda f: f.times(-1),
    aten.mul.Tensor: _scaled,
    aten.mul.Scalar: _scaled,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: lambda a, b, alpha=1: _sum(a, b, -alpha),
    aten.sum.dim_IntList: _over_tasks,
}
"""What is done to factors; each gives None where only the matrix will do."""


class _Factoring(Interpreter):
    """Runs a graph, with rules for what is factored, and the matrix for all that has none."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(target)
        if rule and (target is aten.bmm.default or any(isinstance(a, Factored) for a in args)):
            done = rule(*args, **kwargs)
            if done is not None:
                return done.multiplied() if isinstance(done, Factored) and done.thick else done
        return super().call_function(target, *_multiplied((args, kwargs)))

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().output(target, *_multiplied((args, kwargs)))


def _multiplied(values: Any) -> Any:
    return pytree.tree_map(lambda value: value.multiplied() if isinstance(value, Factored) else value, values)
