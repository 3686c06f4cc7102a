"""Where tasks come from: task *i* of a split is a pure function of (seed, split, i)."""

from innerloop.tasks.images import ImageBatches, ImageTasks
from innerloop.tasks.sinusoids import FreshPoints, Sinusoids
from innerloop.tasks.source import Deferred, Source, from_function, named_source, on

__all__ = ["Deferred", "FreshPoints", "ImageBatches", "ImageTasks", "Sinusoids", "Source", "from_function", "named_source", "on"]
