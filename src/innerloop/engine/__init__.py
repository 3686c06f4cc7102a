"""How a meta-gradient is computed; every plan gives the same numbers, so the fastest one may be taken."""

from innerloop.engine.choose import choose
from innerloop.engine.compiled import compiled, compiled_linear, traced
from innerloop.engine.each import each_task
from innerloop.engine.memory import keep_freed_memory
from innerloop.engine.plan import ENGINES, Plan, mean_over, meta_gradient
from innerloop.engine.precision import PRECISIONS, in_precision, known_precision

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Plan",
    "choose",
    "compiled",
    "compiled_linear",
    "each_task",
    "in_precision",
    "keep_freed_memory",
    "known_precision",
    "mean_over",
    "meta_gradient",
    "traced",
]
