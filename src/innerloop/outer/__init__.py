"""What the outer loop is made of: optimisers, the state between iterations, the log, and signals to stop."""

from innerloop.checkpoint import CHECKPOINT
from innerloop.outer.log import METRICS, Row, logged, open_log
from innerloop.outer.optimise import adam, cosine, optimizer_of, schedule_of
from innerloop.outer.state import State, Witness, emptied, finished, kept_by, place
from innerloop.outer.stop import Stopped, signals

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "Row",
    "State",
    "Stopped",
    "Witness",
    "adam",
    "cosine",
    "emptied",
    "finished",
    "kept_by",
    "logged",
    "open_log",
    "optimizer_of",
    "place",
    "schedule_of",
    "signals",
]
