"""Where tasks come from: task *i* of a split is a pure function of (seed, split, i)."""

from innerloop.tasks.changes import Changes
from innerloop.tasks.curves import Curves, Lines, Parabolas
from innerloop.tasks.families import Families, Goals, Related, Unrelated
from innerloop.tasks.image_families import ImageFamilies
from innerloop.tasks.images import ImageBatches, ImageTasks
from innerloop.tasks.mixture import Mixture, Told
from innerloop.tasks.sinusoids import FreshPoints, Sinusoids
from innerloop.tasks.source import Deferred, Source, check_source, check_split, from_function, from_tasks, most_together, named_source, on
from innerloop.tasks.streams import StreamFamilies, Streams
from innerloop.tasks.varied import VariedTasks
from innerloop.tasks.vectors import VectorTasks, read_vectors

__all__ = [
    "Changes",
    "Curves",
    "Deferred",
    "Families",
    "FreshPoints",
    "Goals",
    "ImageBatches",
    "ImageFamilies",
    "ImageTasks",
    "Lines",
    "Mixture",
    "Parabolas",
    "Related",
    "Sinusoids",
    "Source",
    "StreamFamilies",
    "Streams",
    "Told",
    "Unrelated",
    "VariedTasks",
    "VectorTasks",
    "check_source",
    "check_split",
    "from_function",
    "from_tasks",
    "most_together",
    "named_source",
    "on",
    "read_vectors",
]
