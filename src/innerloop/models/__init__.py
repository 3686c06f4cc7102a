"""Networks of the papers: plain modules, no meta-learning inside."""

from innerloop.models.context import WithContext
from innerloop.models.convnets import Norm, ResNet12, convnet, mlp_classifier
from innerloop.models.encoders import OfImages, OfTrajectory, Recurrent
from innerloop.models.film import FiLM, with_film
from innerloop.models.mlp import Start, mlp

__all__ = [
    "FiLM",
    "Norm",
    "OfImages",
    "OfTrajectory",
    "Recurrent",
    "ResNet12",
    "Start",
    "WithContext",
    "convnet",
    "mlp",
    "mlp_classifier",
    "with_film",
]
