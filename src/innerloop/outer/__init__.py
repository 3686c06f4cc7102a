"""What the outer loop is made of: optimisers, the state between iterations, the log, and signals to stop."""

from innerloop.outer.log import METRICS, Row, logged, open_log
from innerloop.outer.optimise import adam, cosine
from innerloop.outer.state import CHECKPOINT, State, finished, kept_by, place
from innerloop.outer.stop import Stopped, signals

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "Row",
    "State",
    "Stopped",
    "adam",
    "cosine",
    "finished",
    "kept_by",
    "logged",
    "open_log",
    "place",
    "signals",
]
