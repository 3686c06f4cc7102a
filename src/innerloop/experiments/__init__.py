"""One file per table of a paper: what is run, and what the paper says. The folder is the list."""

from innerloop.experiments.catalogue import catalogue, find
from innerloop.experiments.experiment import RESULT, Experiment, Options, Settings, Trial, load, run

__all__ = ["RESULT", "Experiment", "Options", "Settings", "Trial", "catalogue", "find", "load", "run"]
