"""What an experiment is: settings, a trial of a learner, and the paper's numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop.errors import positive
from innerloop.evaluate import Scores, evaluate
from innerloop.images import about
from innerloop.images.fetch import built
from innerloop.learner import Learner
from innerloop.losses import accuracy
from innerloop.outer import Row, adam
from innerloop.params import Params
from innerloop.tasks import Source
from innerloop.train import train


@dataclass(frozen=True)
class Budget:
    """What is run, of any kind. Each experiment's own settings extend these, and every field is an option of ``innerloop run``."""

    seed: int = 0
    """of the starting weights and of the training tasks; test tasks are the same for all seeds"""
    iterations: int = 70_000
    """outer steps"""
    meta_batch: int = 25
    """tasks of one iteration"""
    test_steps: int = 10
    """steps of adaptation that are scored"""
    test_tasks: int = 600
    """tasks that are scored"""

    def quick(self) -> Self:
        """The same in seconds: to see that it runs, not what it gives."""
        return replace(self, iterations=min(self.iterations, 10), test_tasks=min(self.test_tasks, 20))


@dataclass(frozen=True)
class Settings(Budget):
    """What is run of a learner that is trained by gradients of a loss."""

    outer_rate: float = 1e-3
    """Adam's rate"""
    clip: float = 0.0
    """largest element of the meta-gradient; 0 for any"""
    longest: float = 0.0
    """largest length of the meta-gradient, after clip; 0 for any"""
    precision: str = "float32"
    """float32, tf32 or bfloat16: of products while training"""
    validation_tasks: int = 100
    """tasks whose loss is logged with each checkpoint"""


@dataclass(frozen=True)
class Options:
    """How it is run: none of these but ``quick`` moves a number beyond rounding."""

    out: Path = Path("runs")
    """folder of all runs; this one's is OUT/NAME/seedN"""
    resume: bool = False
    """go on from the last checkpoint"""
    overwrite: bool = False
    """start anew where a run is already"""
    quick: bool = False
    """shrink to seconds"""
    engine: str = "auto"
    """auto, or vmap or loop, with +stepwise or +recompute, and +compile or +compile+record (on NVIDIA GPUs), as wanted"""
    chunk: int | None = None
    """tasks in memory together"""
    device: str = "cpu"
    """cpu, cuda, …"""
    checkpoint_every: int = 5_000
    """iterations between checkpoints"""
    watch: int = 0
    """iterations between measurements of conflict and landscape while training; 0 for the experiment's own, as a rule none"""
    track: bool = False
    """write TensorBoard events too"""
    video: bool = False
    """film a robot before and after adaptation, as film.gif"""
    progress: bool = True
    """show a bar"""


Tasks = Any  # a Source, or what a kind of trial has in its place


@dataclass(frozen=True)
class Trial:
    """An experiment made concrete by its settings.

    Args:
        learner: what is trained, on ``tasks``.
        cases: the tasks that are scored, by name, such as ``5-shot``.
        scored: the trained prior and an inner rate → the learner that adapts to them.
        rates: the inner rate; where there are several, the best one on validation tasks is
            taken for each case.
        finish: makes the prior of the trained parameters.
        by_case: in the place of ``scored``, for cases that adapt in another way.
        pictured: the tasks that figures show, by title.
        phases, schedule: as in ``train``.
    """

    learner: Learner
    tasks: Tasks
    cases: Mapping[str, Tasks]
    scored: Callable[[Params, float], Learner]
    rates: Sequence[float]
    finish: Callable[[Params], Params] = lambda params: params
    by_case: Mapping[str, Callable[[Params, float], Learner]] = field(default_factory=dict)
    pictured: Mapping[str, Source] | None = None
    phases: Mapping[int, Learner] = field(default_factory=dict)
    schedule: Callable[[Optimizer], LRScheduler] | None = None

    def trained(self, settings: Any, options: Options, folder: Path, log: Callable[[Row], None]) -> Learner:
        """The learner with its prior trained, as ``train`` does it."""
        positive(outer_rate=settings.outer_rate)
        return train(
            self.learner,
            self.tasks,
            settings.iterations,
            meta_batch=settings.meta_batch,
            optimizer=adam(settings.outer_rate, settings.clip or None, settings.longest or None),
            schedule=self.schedule,
            phases=self.phases,
            precision=settings.precision,
            engine=options.engine,
            chunk=options.chunk,
            device=options.device,
            out=folder,
            resume=options.resume,
            checkpoint_every=options.checkpoint_every,
            validation_tasks=settings.validation_tasks,
            progress=options.progress,
            track=options.track,
            watch=self._watch(settings, options) if options.watch else None,
            watch_every=max(options.watch, 1),
            log=log,
        )

    def _watch(self, settings: Any, options: Options) -> Callable[[Learner], Row]:
        from innerloop.analysis import watch

        return watch(self.tasks, self.rates[0], settings.outer_rate, device=options.device)

    def taking(self, learner: Learner, steps: int) -> Learner:
        """The learner that takes so many steps on a task of the cases."""
        return learner.taking(steps)

    def scores(self, learner: Learner, tasks: Any, steps: int, n_tasks: int, **how: Any) -> Scores:
        """What is scored of the tasks, as ``evaluate`` does it."""
        return evaluate(learner, tasks, steps, n_tasks, **how)


@dataclass(frozen=True)
class Metric:
    """What is scored on a task's query.

    Args:
        name: and its unit.
        of: ``(prediction, y) → scalar``; the learner's loss where None.
        higher: whether more is better.
    """

    name: str
    of: Callable[[Any, Any], Tensor] | None = None
    higher: bool = False


MSE = Metric("MSE")
ACCURACY = Metric("accuracy, %", lambda prediction, y: 100 * accuracy(prediction, y), higher=True)


@dataclass(frozen=True)
class Experiment:
    """A row of a paper's table: its name, what the paper says, what is run.

    Args:
        name: ``paper/experiment[-cell][@variant]``.
        title: what it is, in a few words.
        source: paper and place.
        follows: which of paper and released code the settings follow where they differ.
        metric: what is scored.
        claims: the paper's numbers: case → step → value.
        margins: the paper's ± of them, where it prints one.
        comparable: whether the paper says enough of its tasks for ours to be the same.
        watch: iterations between measurements of conflict and landscape, where the experiment is about these.
        engine: in the place of ``auto``, where what that would try to compile takes too long.
        cost: time on two cores.
    """

    name: str
    title: str
    source: str
    settings: Budget
    build: Callable[[Any], Trial]
    claims: Mapping[str, Mapping[int, float]]
    follows: str
    metric: Metric = MSE
    margins: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    comparable: bool = True
    watch: int = 0
    engine: str = "auto"
    cost: str = "2 min"
    needs: tuple[str, ...] = ()

    def claimed(self, settings: Row) -> Mapping[str, Mapping[int, float]]:
        """The paper's numbers that a run of these settings may stand beside: none where its data are others."""
        own = asdict(self.settings)
        others = (name for name in DATA if name in own and not _alike(plain(settings.get(name, own[name])), own[name]))
        return {} if any(others) else self.claims

    def lacking(self, settings: Row) -> list[str]:
        """The sets of images of a run of these settings that are here a part of what they are named after."""
        named = {settings.get("data"), *self.needs} & {*built()}
        return sorted(name for name in named if about(name).get("missing") == "drop")


DATA = (
    *("data", "split", "size", "trained_on", "prefix"),
    *("modes", "waves", "noise"),
    *("robot", "goal", "dynamics", "horizon", "reward", "bound", "scaled", "stop", "spread"),
)
"""Settings that say what a run's tasks are: of images, of curves, of worlds."""
ALIKE = (
    *({"omniglot", "omniglot-release"}, {"omniglot-release", "omniglot-1200"}),
    *({"parts", split} for split in ("ravi", "tiered", "cifar-fs", "fc100")),
)
"""Sets, and splits, of which one is the paper's and the other its code's, or that of the pickles that come in its parts."""


def _alike(one: Any, other: Any) -> bool:
    return one == other or any({one, other} <= kind for kind in ALIKE)


def plain(value: Any) -> Any:
    """A setting as it is in Python, of what JSON has for it."""
    return tuple(value) if isinstance(value, list) else value
