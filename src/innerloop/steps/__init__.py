"""Kinds of step, one a file: pure functions ``(params, batch) → params``."""

from innerloop.steps.arrange import in_turn, put_slice
from innerloop.steps.descend import Rate, descend

__all__ = ["Rate", "descend", "in_turn", "put_slice"]
