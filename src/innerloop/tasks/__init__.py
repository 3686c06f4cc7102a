"""Where tasks come from: task *i* of a split is a pure function of (seed, split, i)."""

from innerloop.tasks.sinusoids import FreshPoints, Sinusoids
from innerloop.tasks.source import Source, from_function, named_source

__all__ = ["FreshPoints", "Sinusoids", "Source", "from_function", "named_source"]
