"""No library: ``grad`` and ``vmap`` of ``torch.func`` over all tasks at once, uncompiled."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from . import Tasks


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient as the gradient of a mean over mapped tasks.

    The network is taken as it is. With BatchNorm its result is wrong, in double precision too: the
    second derivatives of torch's kernel are wrong under ``vmap``, and of all peers this one alone does
    not agree on such networks.
    """
    compare = functional.cross_entropy if classify else functional.mse_loss
    support, query = tasks
    prior = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return compare(functional_call(net, params, (x,)), y)

    def task_loss(params: dict[str, Tensor], support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor]) -> Tensor:
        for _ in range(steps):
            slopes = grad(loss)(params, *support)
            params = {name: p - rate * slopes[name] for name, p in params.items()}
        return loss(params, *query)

    def meta_loss(params: dict[str, Tensor]) -> Tensor:
        return vmap(task_loss, in_dims=(None, 0, 0))(params, support, query).mean()

    slope = grad(meta_loss)
    return lambda: list(slope(prior).values())
