"""``innerloop compare``: runs on the same test tasks, task by task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from innerloop import checkpoint, report
from innerloop.errors import InputError
from innerloop.evaluate import Scores, compare
from innerloop.experiments.kept import RESULT, SCORES, seeds_of


@dataclass(frozen=True)
class Compare:
    """Runs on the same test tasks, task by task: two of them after each step, or more, or several seeds of each, at their last one."""

    first: Positional[Path]
    """a run's folder, or that of an experiment with a folder for each seed"""
    others: Positional[tuple[Path, ...]]
    """one or more to compare it with, of the same kind"""
    figures: Path | None = None
    """draw the first run of each together into this folder: the metric by steps, fitted curves, conflict and landscape if watched"""


def compare_(given: Compare) -> None:
    if not given.others:
        raise InputError(f"there is nothing to compare {given.first} with; name one more run")
    tables = list(_compared(given))
    if given.figures:
        from innerloop import gallery

        gallery.together([given.first, *given.others], given.figures)
    for table in tables:
        print(table)


def _compared(given: Compare) -> Iterator[object]:
    """Two runs' difference in each case, or all runs beside each other."""
    folders = (given.first, *given.others)
    alone = all((folder / SCORES).exists() for folder in folders)
    if len(given.others) > 1 or not alone:
        # Runs that are named one by one are compared, whatever their seeds are.
        runs = {str(folder): {"": _scores(folder)} if alone else _scores_by_seed(folder) for folder in folders}
        every = [scores for run in runs.values() for scores in run.values()]
        for case in _shared(every):
            yield report.comparison(case, {name: {seed: scores[case] for seed, scores in run.items()} for name, run in runs.items()})
        return
    other = next(iter(given.others))
    a, b = _scores(given.first), _scores(other)
    for case in _shared([a, b]):
        yield f"{case}: {given.first} − {other}\n{compare(a[case], b[case])}"


def _shared(every: Sequence[Mapping[str, Scores]]) -> list[str]:
    """Cases that all have."""
    if not (shared := [case for case in every[0] if all(case in scores for scores in every)]):
        cases = sorted({case for scores in every for case in scores})
        raise InputError(f"the runs share no case: they have {', '.join(cases)}; compare runs of the same tasks")
    return shared


def _scores(folder: Path) -> dict[str, Scores]:
    """Scores by case, in the order of the run."""
    values, tasks = checkpoint.read(folder / SCORES)
    if values.keys() != tasks.keys() or any(value.ndim != 2 for value in values.values()):
        raise InputError(f"{folder / SCORES} is no file of scores; copy it again, or start the run anew")
    result = folder / RESULT
    order = [*(checkpoint.read_json(result).get("cases", ()) if result.exists() else ()), *values]
    return {case: Scores(values[case], tasks[case]) for case in sorted(values, key=order.index)}


def _scores_by_seed(folder: Path) -> dict[str, dict[str, Scores]]:
    """Scores by case, by the name of the seed's folder."""
    seeds = [seed for seed in seeds_of(folder) if (seed / SCORES).exists()]
    if not seeds:
        raise InputError(f"{folder} holds no scores; give a run's folder, or that of an experiment with a folder for each seed")
    return {seed.name: _scores(seed) for seed in seeds}
