"""What ``innerloop`` can do, a file for each command: its options, and the few lines that ask the library for it."""

from innerloop.commands.adapt import Adapt, adapt_
from innerloop.commands.analyse import Analyse, analyse_
from innerloop.commands.compare import Compare, compare_
from innerloop.commands.data import data
from innerloop.commands.doctor import Doctor, doctor_
from innerloop.commands.evaluate import Evaluate, evaluate_
from innerloop.commands.listing import List, list_
from innerloop.commands.report import Report, report_
from innerloop.commands.run import run
from innerloop.commands.words import Command, parse, usage

COMMANDS: dict[str, Command] = {
    "list": (List, list_),
    "run": (None, run),
    "evaluate": (Evaluate, evaluate_),
    "analyse": (Analyse, analyse_),
    "compare": (Compare, compare_),
    "report": (Report, report_),
    "adapt": (Adapt, adapt_),
    "data": (None, data),
    "doctor": (Doctor, doctor_),
}

__all__ = ["COMMANDS", "parse", "usage"]
