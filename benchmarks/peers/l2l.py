"""learn2learn 0.2.0: ``MAML(net, lr)``, and for each task clone, adapt, backward."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor, nn
from torch.nn import functional

from . import Tasks

# learn2learn imports its environments and its image data along with MAML, which needs neither:
# where gym or torchvision is missing, an empty module stands in for the part built on it.
for part, needed in (("gym", "gym"), ("vision", "torchvision")):
    if find_spec(needed) is None:
        sys.modules.setdefault(f"learn2learn.{part}", ModuleType(f"learn2learn.{part}"))

import learn2learn  # noqa: E402  # pyright: ignore[reportMissingImports]


def prepare(net: nn.Module, classify: bool, steps: int, rate: float, tasks: Tasks) -> Callable[[], list[Tensor]]:
    """One meta-gradient by a loop over tasks, each with a clone of the network going backward by itself."""
    compare = functional.cross_entropy if classify else functional.mse_loss
    support, query = tasks
    each = list(zip(*support, *query, strict=True))
    maml = learn2learn.algorithms.MAML(net, lr=rate)

    def gradient() -> list[Tensor]:
        maml.zero_grad(set_to_none=True)
        for x, y, query_x, query_y in each:
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(compare(learner(x), y))
            loss = compare(learner(query_x), query_y)
            (loss / len(each)).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    return gradient
