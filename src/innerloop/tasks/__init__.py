"""Where tasks come from: task *i* of a split is a pure function of (seed, split, i)."""

from innerloop.tasks.curves import Curves, Lines, Parabolas
from innerloop.tasks.families import Families, Goals, Related
from innerloop.tasks.images import ImageBatches, ImageTasks
from innerloop.tasks.mixture import Mixture, Told
from innerloop.tasks.sinusoids import FreshPoints, Sinusoids
from innerloop.tasks.source import Deferred, Source, from_function, most_together, named_source, on
from innerloop.tasks.varied import VariedTasks
from innerloop.tasks.vectors import VectorTasks, read_vectors

__all__ = [
    "Curves",
    "Deferred",
    "Families",
    "FreshPoints",
    "Goals",
    "ImageBatches",
    "ImageTasks",
    "Lines",
    "Mixture",
    "Parabolas",
    "Related",
    "Sinusoids",
    "Source",
    "Told",
    "VariedTasks",
    "VectorTasks",
    "from_function",
    "most_together",
    "named_source",
    "on",
    "read_vectors",
]
