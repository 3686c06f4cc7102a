"""One file per table of a paper: what is run, and what the paper says. The folder is the list."""

from innerloop.experiments.catalogue import catalogue, find
from innerloop.experiments.experiment import Experiment, Options, Settings, Trial
from innerloop.experiments.kept import RESULT, load
from innerloop.experiments.running import run

__all__ = ["RESULT", "Experiment", "Options", "Settings", "Trial", "catalogue", "find", "load", "run"]
