"""Trust regions: an outer step that lowers a surrogate as far as the outputs that it is a surrogate of may move."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vjp

from innerloop.batches import map_tensors, tensors
from innerloop.device import device_of
from innerloop.engine import compiled, compiled_linear, in_precision, keep_freed_memory, known_precision
from innerloop.errors import Diverged, InputError
from innerloop.params import Params


@dataclass(frozen=True)
class Moved:
    """What an outer step did.

    Args:
        before, after: the surrogate.
        moved: the divergence from the outputs before the step.
        tries: lengths that were tried; 0 where there was no direction to go.
        part: of the batch, that F was taken on.
    """

    before: float
    after: float
    moved: float
    tries: int
    part: float = 1.0


@dataclass(frozen=True)
class TrustRegion:
    """θ ← θ + s x with F x ≈ −g by conjugate gradients, s as long as ½ s² xᵀ F x = limit, then shorter until it holds.

    g is the surrogate's gradient, and F = Jᵀ D J the curvature of the mean divergence of the
    outputs from what they are now: J by θ, through adaptation, D by the outputs. The divergence
    is flat there, so F is its exact Hessian, without third derivatives.

    Args:
        judge: ``(θ, batch) → (surrogate, outputs)``: a scalar to go down, and tensors, nested as they
            may be, such as the policies after adaptation.
        divergence: ``(old outputs, new ones, batch) → scalar``, such as their mean KL.
        limit: of the divergence in one step, above 0.
        products: of F with a vector, at most: conjugate gradients' iterations.
        damping: is added to F's diagonal.
        shrink: factor between lengths that are tried.
        tries: of them; where none lowers the surrogate within the limit, θ stays.
        fewer: ``batch → batch``: what F is taken on, by default all of it.
        hessian: ``exact``, or ``differences`` of two gradients of the divergence as in the MAML paper's code. Of policies
            with ReLU these are rough: adaptation's own gradient jumps.
        compile: all of these, at the first step: 20 to 60 seconds.
        precision: of the products of F, which must be exact; gradient, surrogate and divergence stay float32. ``bfloat16`` takes a third
            off the step on processors that have it, and moves the direction by 3 degrees.

    Raises:
        InputError: a setting is out of its range.

    Source: Schulman et al. 2015, arXiv:1502.05477, App. C; Finn et al. 2017, arXiv:1703.03400, §5.3.
    """

    judge: Callable[[Params, Any], tuple[Tensor, Any]]
    divergence: Callable[[Any, Any, Any], Tensor]
    limit: float = 0.01
    products: int = 10
    damping: float = 1e-5
    shrink: float = 0.8
    tries: int = 15
    fewer: Callable[[Any], Any] = lambda batch: batch
    hessian: Literal["exact", "differences"] = "exact"
    compile: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        known_precision(self.precision)
        if self.hessian == "differences" and self.precision != "float32":
            raise InputError(f"differences of gradients need every digit; take precision float32 with them, not {self.precision}")
        if not (self.limit > 0 and self.products >= 1 and self.damping >= 0 and 0 < self.shrink < 1 and self.tries >= 1):
            raise InputError(
                f"limit is {self.limit}, products {self.products}, damping {self.damping}, shrink {self.shrink} and tries {self.tries}; "
                "give a limit above 0, 1 product and try or more, a damping of 0 or more, and shrink between 0 and 1"
            )

    def __call__(self, params: Params, batch: Any) -> tuple[Params, Moved]:
        """The parameters after the step, which are the same ones where it was rejected, and what it did.

        Raises:
            Diverged: the surrogate or its gradient is NaN or infinite, or so large that its square is.
        """
        keep_freed_memory()
        gradient, (before, old) = self._gradient(params, batch)
        for name, value in (("surrogate", before), ("squared length of the surrogate's gradient", dot(gradient, gradient))):
            if not value.isfinite():
                raise Diverged(
                    f"the {name} is {float(value)}; scale rewards down, or see that the policy gives its own actions a probability"
                )
        some = self.fewer(batch)
        part = 1.0 if some is batch else _numbers(some) / _numbers(batch)
        times = self.curvature(params, some)
        direction, bent = conjugate_gradients(times, map_tensors(torch.neg, gradient), self.products)
        if not bent > 0:
            return params, Moved(float(before), float(before), 0.0, 0, part)
        length = (2 * self.limit / bent) ** 0.5
        for k in range(self.tries):
            there = {name: p + length * self.shrink**k * direction[name] for name, p in params.items()}
            after, moved = self._measure(there, batch, old)
            if after < before and moved <= self.limit:
                return there, Moved(float(before), float(after), float(moved), k + 1, part)
        return params, Moved(float(before), float(before), 0.0, self.tries, part)

    def kept(self) -> dict[str, Any]:
        """Settings that a run must keep to when it goes on."""
        own = ("limit", "products", "damping", "shrink", "tries", "hessian", "precision")
        return {f"the trust region's {name}": getattr(self, name) for name in own}

    def curvature(self, params: Params, batch: Any) -> Callable[[Params], Params]:
        """v ↦ (F + damping) v."""
        product = self._by_differences(params, batch) if self.hessian == "differences" else self._bending(params, batch)
        return lambda v: map_tensors(lambda fv, own: fv + self.damping * own, product(v), v)

    @cached_property
    def _gradient(self) -> Callable[..., Any]:
        return self._maybe_compiled(grad_and_value(self.judge, has_aux=True))

    @cached_property
    def _measure(self) -> Callable[..., Any]:
        def measure(params: Params, batch: Any, old: Any) -> tuple[Tensor, Tensor]:
            surrogate, new = self.judge(params, batch)
            return surrogate, self.divergence(old, new, batch)

        return self._maybe_compiled(measure)

    @cached_property
    def _slope(self) -> Callable[..., Any]:
        def slope(params: Params, batch: Any, old: Any) -> Params:
            return grad(lambda p: self.divergence(old, self.judge(p, batch)[1], batch))(params)

        return self._maybe_compiled(slope)

    def _maybe_compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return compiled(f) if self.compile else f

    def _bending(self, params: Params, batch: Any) -> Callable[[Params], Params]:
        if self.compile:
            return self._linear(params, batch)[1]
        return lambda v: self._bent(v, params, batch)[1]

    @cached_property
    def _linear(self) -> Callable[..., tuple[Any, Callable[[Params], Params]]]:
        return compiled_linear(self._bent, example=lambda params, batch: params)

    def _bent(self, v: Params, params: Params, batch: Any) -> tuple[Any, Params]:
        """The outputs and F v, by forward mode and then reverse mode: Jᵀ (D (J v))."""
        of = lambda p: self.judge(p, batch)[1]  # noqa: E731
        with in_precision(self.precision, device_of(params).type):
            old, ahead, *_ = jvp(of, (params,), (v,))
            through = jvp(grad(lambda new: self.divergence(old, new, batch)), (old,), (ahead,))[1]
            return old, vjp(of, params)[1](through)[0]

    def _by_differences(self, params: Params, batch: Any) -> Callable[[Params], Params]:
        old = self.judge(params, batch)[1]

        def product(v: Params) -> Params:
            small = NUDGE / (dot(v, v) ** 0.5 + 1e-8)
            up, down = (self._slope({n: p + s * small * v[n] for n, p in params.items()}, batch, old) for s in (1, -1))
            return map_tensors(lambda a, b: (a - b) / (2 * small), up, down)

        return product


def _numbers(batch: Any) -> int:
    return sum(t.numel() for t in tensors(batch))


NUDGE = 1e-2
"""Length of the move that differences of gradients are taken over: gradients of ReLU networks jump, which shorter ones blow up."""


def conjugate_gradients(times: Callable[[Params], Params], b: Params, iterations: int, least: float = 1e-10) -> tuple[Params, Tensor]:
    """x with A x ≈ b, and xᵀ A x, of a positive definite A given by its products with vectors.

    Args:
        times: v ↦ A v.
        least: squared length of b − A x at which it is near enough, as a part of b's.
    """
    x, r = map_tensors(torch.zeros_like, b), b
    p, rr = r, dot(r, r)
    enough = least * rr
    for _ in range(iterations):
        if not rr > enough:
            break
        ap = times(p)
        step = rr / dot(p, ap)
        x = map_tensors(lambda own, other, s=step: own + s * other, x, p)
        r = map_tensors(lambda own, other, s=step: own - s * other, r, ap)
        new = dot(r, r)
        p = map_tensors(lambda own, other, s=new / rr: own + s * other, r, p)
        rr = new
    return x, dot(x, b) - dot(x, r)  # A x = b − r


def dot(a: Any, b: Any) -> Tensor:
    """Σ a · b over all tensors."""
    return torch.stack([(x * y).sum() for x, y in zip(tensors(a), tensors(b), strict=True)]).sum()
