"""Where tasks come from: task *i* of a split is a pure function of (seed, split, i)."""

from innerloop.tasks.images import ImageBatches, ImageTasks
from innerloop.tasks.sinusoids import FreshPoints, Sinusoids
from innerloop.tasks.source import Deferred, Source, from_function, most_together, named_source, on
from innerloop.tasks.varied import VariedTasks
from innerloop.tasks.vectors import VectorTasks, read_vectors

__all__ = [
    "Deferred",
    "FreshPoints",
    "ImageBatches",
    "ImageTasks",
    "Sinusoids",
    "Source",
    "VariedTasks",
    "VectorTasks",
    "from_function",
    "most_together",
    "named_source",
    "on",
    "read_vectors",
]
