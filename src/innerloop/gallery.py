"""Figures of whole runs, made of what is in their folders."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from matplotlib.figure import Figure

from innerloop import analysis, checkpoint, experiments, plots, report, tracks
from innerloop.errors import InputError
from innerloop.experiments.experiment import Trial
from innerloop.experiments.kept import RESULT, RUN, prior_of, seeds_of, trial_of
from innerloop.experiments.practice import PolicyTrial
from innerloop.learner import Learner
from innerloop.outer import logged
from innerloop.params import Params
from innerloop.plots import Run
from innerloop.tasks import Deferred, Mixture


def of_run(folder: Path, row: report.Row) -> list[str]:
    """Draw a run into its folder: scores, training, what was watched, fits, modes, as far as it has them.

    Returns:
        The files' names.
    """
    title = experiments.catalogue()[row["experiment"]].title
    figures = {"curves.png": plots.curves(report.entries([row], experiments.catalogue()))}
    lines = logged(folder)
    if any("loss" in line for line in lines):
        figures["training.png"] = plots.training(lines, title)
    if any("returns" in line for line in lines):
        figures["practice.png"] = tracks.practising(lines, title)
    if any("conflict" in line for line in lines):
        figures |= {"conflict.png": plots.conflicts({title: lines}), "landscape.png": plots.landscapes({title: lines})}
    run = _run_of(folder, row)
    if isinstance(run[0], PolicyTrial):
        return into(folder, figures | _of_policy(experiments.load(folder), run[0], title, row["quick"]))
    if plots.pictured(run[0]):
        figures["fits.png"] = plots.fits(run, title)
    if (figure := _modes(run[0], run[1], title, row["settings"]["test_tasks"])) is not None:
        figures["modes.png"] = figure
    return into(folder, figures)


def _of_policy(learner: Learner, trial: PolicyTrial, title: str, quick: bool) -> dict[str, Figure]:
    met, figures = next(iter(trial.cases.values())), {}
    if tracks.on_a_plane(met):
        figures["walks.png"] = tracks.walks(learner, met, title)
    if analysis.embeds(learner) and getattr(met.world, "centres", ()) and _can_lay_out():
        told, modes = tracks.goal_embeddings(learner, met, 100 if quick else 1_000)
        figures["modes.png"] = plots.modes(told, modes, [f"goals around {centre}" for centre in met.world.centres], title)
    return figures


def film(folder: Path) -> str:
    """Film a robot's run before and after adaptation, into its folder.

    Returns:
        The file's name.

    Raises:
        InputError: the run is of no robot, or this machine cannot draw off screen.
    """
    trial, _ = trial_of(folder)
    if not isinstance(trial, PolicyTrial):
        raise InputError(f"{folder} is a run of no policy; only robots can be filmed")
    checkpoint.write_whole(folder / "film.gif", tracks.film(experiments.load(folder), next(iter(trial.cases.values()))))
    return "film.gif"


def of_measures(folder: Path, found: analysis.Measures, of: experiments.Experiment) -> list[str]:
    """Draw what was measured of a run into its folder: conflict by task, what is kept, attenuation by hand.

    Returns:
        The files' names.
    """
    figures = {
        "conflict-by-task.png": plots.spread(found.conflict, of.title, "angle to what all tasks want, radians"),
        "kept.png": plots.spread(found.kept, of.title, "part of the prior that is kept"),
        "attenuated.png": plots.attenuated(found.attenuated, found.factors, of.title, of.metric.name),
    }
    return into(folder, figures)


def into(folder: Path, figures: Mapping[str, Figure]) -> list[str]:
    """Write figures into a folder.

    Returns:
        Their names.
    """
    for name, figure in figures.items():
        checkpoint.write_whole(checkpoint.writable(folder) / name, plots.png(figure))
    return list(figures)


def together(folders: Sequence[Path], place: Path) -> None:
    """Draw the first run of each folder in one: scores, curves before and after adaptation, what was watched of all.

    Raises:
        InputError: they have nothing to draw.
    """
    firsts = dict(zip(_names(folders), (seeds_of(folder)[0] for folder in folders), strict=True))
    figures: dict[str, Figure] = {}
    lines = {name: logged(first) for name, first in firsts.items()}
    if all(any("conflict" in row for row in rows) for rows in lines.values()):
        figures |= {"conflict.png": plots.conflicts(lines), "landscape.png": plots.landscapes(lines)}
    known = experiments.catalogue()
    rows = {name: checkpoint.read_json(first / RESULT) for name, first in firsts.items() if (first / RESULT).exists()}
    if rows and all(row["experiment"] in known for row in rows.values()):
        figures["curves.png"] = plots.curves(report.entries(rows.values(), known))
        runs = {name: _run_of(firsts[name], row) for name, row in rows.items()}
        if all(plots.pictured(trial) for trial, _, _ in runs.values()):
            steps = next(iter(runs.values()))[0].learner
            after = max(len(steps.steps) - steps.prepared, 1)
            figures |= {"fits-before.png": plots.fits_compared(runs, 0), "fits-after.png": plots.fits_compared(runs, after)}
    if not figures:
        raise InputError(f"there is nothing to draw of {folders[0]}; give runs of listed experiments, or leave --figures out")
    into(place, figures)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the runs are, as far as that tells them apart; else their folders."""
    known, titles = experiments.catalogue(), []
    for folder in folders:
        place = seeds_of(folder)[0]
        about = checkpoint.read_json(place / RUN) if (place / RUN).exists() else {}
        experiment = known.get(str(about.get("experiment")))
        titles.append(experiment.title if experiment else folder.name)
    return titles if len(set(titles)) == len(titles) else [str(folder) for folder in folders]


def _run_of(folder: Path, row: report.Row) -> Run:
    """What figures of a run are made of: its trial, its prior, and the inner rate of each case."""
    trial, _ = trial_of(folder)
    return trial, prior_of(folder, trial), {case: scored["rate"] for case, scored in row["cases"].items()}


def _modes(trial: Trial, prior: Params, title: str, n_tasks: int) -> Figure | None:
    """What the encoder tells of tasks of several modes, where there is one."""
    tasks, learner = next(iter(trial.cases.values())), trial.scored(prior, trial.rates[0])
    tasks = tasks.made if isinstance(tasks, Deferred) else tasks
    if not analysis.embeds(learner) or not isinstance(tasks, Mixture):
        return None
    if not _can_lay_out():
        return None
    n = min(max(n_tasks, 100), 1_000)
    return plots.modes(analysis.embeddings(learner, tasks, n), tasks.modes(0, n), list(tasks.sources), title)


def _can_lay_out() -> bool:
    if find_spec("sklearn") is None:
        print("modes.png needs scikit-learn; pip install innerloop[sklearn]")
        return False
    return True
