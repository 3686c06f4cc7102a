"""Ctrl-C and SIGTERM: a run ends after its iteration, with its state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came, and the state is saved where there is a folder to save it to."""

    def __init__(self, iteration: int, iterations: int, folder: Path | None, signal_number: int):
        where = f"saved in {folder}; continue with resume" if folder else "nothing is saved: no out folder was given"
        super().__init__(f"stopped after iteration {iteration} of {iterations}, {where}")
        self.signal_number = signal_number


@contextmanager
def signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted, for the loop to end after its iteration; a second one ends at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
