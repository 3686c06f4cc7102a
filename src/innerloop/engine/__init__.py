"""How a meta-gradient is computed; every plan gives the same numbers, so the fastest one may be taken."""

from innerloop.engine.choose import choose
from innerloop.engine.compiled import compiled
from innerloop.engine.memory import keep_freed_memory
from innerloop.engine.plan import ENGINES, Plan, meta_gradient

__all__ = ["ENGINES", "Plan", "choose", "compiled", "keep_freed_memory", "meta_gradient"]
