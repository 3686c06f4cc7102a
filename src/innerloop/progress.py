"""The bar that long work shows: rate, time left, and what goes on."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Bar:
    """A bar on a terminal; elsewhere a line at each tenth."""

    def __init__(self, what: str, total: int, done: int, progress: Any):
        self.what, self.total, self.start, self.progress = what, total, done, progress
        self.began = self.drawn = time.perf_counter()
        self.tenth = 10 * done // max(total, 1)
        if progress:
            self.task = progress.add_task(what, total=total, completed=done, note="", rate="")

    def to(self, done: int, note: str = "") -> None:
        """So many are done; cheap enough to be called at each."""
        now = time.perf_counter()
        if self.progress and (now - self.drawn > 0.2 or done >= self.total):
            self.drawn = now
            self.progress.update(self.task, completed=done, note=note, rate=self._rate(done, now))
        elif not self.progress and 10 * done // max(self.total, 1) > self.tenth and now - self.began > 2:
            self.tenth = 10 * done // self.total
            self.say(f"{done:,} of {self.total:,}, {self._rate(done, now)} {note}")

    def say(self, line: str) -> None:
        """Show what goes on: in front of the bar, or as a line."""
        if self.progress:
            self.progress.update(self.task, description=f"{self.what}: {line}" if line else self.what)
        elif line:
            print(f"{self.what}: {line}", file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """Leave a line that stays."""
        (self.progress.console.print if self.progress else lambda text: print(text, file=sys.stderr))(f"{self.what}: {line}")

    def restart(self, done: int) -> None:
        """Count the rate from now on, when so many are done."""
        self.start, self.began = done, time.perf_counter()

    def _rate(self, done: int, now: float) -> str:
        rate = (done - self.start) / max(now - self.began, 1e-9)
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.3g} s each"


class Silent(Bar):
    """No bar at all; warnings are still said."""

    def __init__(self, what: str):
        self.what, self.progress = what, None

    def to(self, done: int, note: str = "") -> None: ...
    def say(self, line: str) -> None: ...
    def restart(self, done: int) -> None: ...


@contextmanager
def bar(what: str, total: int, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """A bar from ``done`` to ``total`` on standard error."""
    if not show:
        yield Silent(what)
        return
    if not sys.stderr.isatty():
        yield Bar(what, total, done, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        yield Bar(what, total, done, progress)
