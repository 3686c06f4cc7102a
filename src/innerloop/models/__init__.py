"""Networks of the papers: plain modules, no meta-learning inside."""

from innerloop.models.context import WithContext
from innerloop.models.mlp import Start, mlp

__all__ = ["Start", "WithContext", "mlp"]
