"""Kinds of step, one a file: pure functions ``(params, batch) → params``."""

from innerloop.steps.arrange import each_on, in_turn, put_slice
from innerloop.steps.attenuate import Gate, attenuate, rescale
from innerloop.steps.descend import Rate, descend, slope
from innerloop.steps.modulate import modulate

__all__ = ["Gate", "Rate", "attenuate", "descend", "each_on", "in_turn", "modulate", "put_slice", "rescale", "slope"]
