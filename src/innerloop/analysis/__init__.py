"""What the papers measure of a learner beside its score: conflict, attenuation, landscape."""

from innerloop.analysis.conflict import angles, conflict, conflict_within
from innerloop.analysis.embedding import embeddings, embeds, in_the_plane, probe
from innerloop.analysis.forgetting import kept, sweep
from innerloop.analysis.landscape import Landscape, along_slope, inner_landscape, outer_landscape
from innerloop.analysis.measures import Measures, measure
from innerloop.analysis.reuse import cka, reuse
from innerloop.analysis.watch import watch

__all__ = [
    "Landscape",
    "Measures",
    "along_slope",
    "angles",
    "cka",
    "conflict",
    "conflict_within",
    "embeddings",
    "embeds",
    "in_the_plane",
    "inner_landscape",
    "kept",
    "measure",
    "outer_landscape",
    "probe",
    "reuse",
    "sweep",
    "watch",
]
