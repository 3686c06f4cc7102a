"""How a meta-gradient is computed; every plan gives the same numbers, so the fastest one may be taken."""

from innerloop.engine.choose import choose
from innerloop.engine.plan import ENGINES, Plan, meta_gradient

__all__ = ["ENGINES", "Plan", "choose", "meta_gradient"]
