"""Figures and films of policies: returns while training, walks in the plane, embeddings of goals, robots that run."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from innerloop.analysis import embeddings
from innerloop.batches import one
from innerloop.errors import InputError
from innerloop.learner import Learner, Task
from innerloop.plots import COLOURS
from innerloop.progress import bar
from innerloop.rl import Experience, FamilyExperience, Navigation, Rollouts, total
from innerloop.rl.worlds import Around

Row = Mapping[str, Any]


def practising(rows: Sequence[Row], title: str) -> Figure:
    """Mean return of each iteration's tasks before adaptation and after each step, as ``train_policy`` logs it."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    panel = figure.subplots()
    logged = [row for row in rows if "returns" in row]
    points = len(logged[0]["returns"])
    for k in range(points):
        after = "without adaptation" if points == 1 else _after(k)
        returns = [row["returns"][k] for row in logged]
        panel.plot([row["iteration"] for row in logged], returns, color=COLOURS[k % len(COLOURS)], lw=1.2, label=after)
    panel.set(xlabel="iterations", ylabel="return")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)
    return figure


def _after(steps: int) -> str:
    return f"after {steps} step{'s' * (steps != 1)}"


def on_a_plane(experience: Any) -> bool:
    """Whether a world's observations begin with a place in the plane, and its tasks with a goal there."""
    world = getattr(experience, "world", None)
    while isinstance(world, Around):
        world = world.world
    return isinstance(world, Navigation)


def walks(learner: Learner, experience: Experience | FamilyExperience, title: str, tasks: int = 3, shown: int = 6) -> Figure:
    """Where a policy walks before and after each step, a row for each test task, with its goal as a star.

    Fig. 4 of Finn et al. 2017, 6 and 9 of Vuorio et al. 2018, K of Baik et al. 2020.
    """
    met = experience.gather(learner, learner.prior, "test", 0, tasks)
    points = [met.support[k] for k in range(learner.prepared)] if isinstance(experience, Experience) else []
    names = ["unmodulated" if learner.prepared else ""] * len(points)
    after = experience.points(learner, met)
    points, names = points + after, names + [_after(k) for k in range(len(after))]
    goals, rows = _goals(experience, tasks), len(after[0].rewards)
    figure = Figure(figsize=(2.5 * len(points), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(points), squeeze=False, sharex="row", sharey="row")
    for i in range(rows):
        for k, rollouts in enumerate(points):
            _walked(grid[i, k], one(rollouts, i), goals[i], shown)
            if not i:
                grid[i, k].set_title(names[k], fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _goals(experience: Experience | FamilyExperience, tasks: int) -> Tensor:
    if isinstance(experience, FamilyExperience):
        every = experience.world.families("test", 0, tasks, experience.related + experience.goals)[:, experience.related :]
        return every.flatten(0, 1)[:, :2]
    return experience.world.tasks("test", 0, tasks)[:, :2]


def _walked(panel: Any, rollouts: Rollouts, goal: Tensor, shown: int) -> None:
    for k in range(min(shown, len(rollouts.rewards))):
        path = rollouts.observations[k][rollouts.alive[k]]
        panel.plot(path[:, 0], path[:, 1], lw=0.8, alpha=0.8, color=COLOURS[0])
    panel.plot(*rollouts.observations[0, 0, :2], "o", color="#333", ms=4)
    panel.plot(*goal, "*", color=COLOURS[1], ms=10)
    panel.set_xlabel(f"return {float(total(rollouts)):.1f}", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.set_aspect("equal", adjustable="box")


def goal_embeddings(learner: Learner, experience: Experience, goals: int = 1_000) -> tuple[Tensor, Tensor]:
    """What a policy's encoder tells of each test goal ``[goals, size]``, and the Gaussian that it is of ``[goals]``.

    Raises:
        InputError: the learner has no encoder.

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), Fig. 4(c).
    """
    met = _Unadapted(experience, learner.taking(0))
    return embeddings(met.learner, met, goals), experience.world.tasks("test", 0, goals)[:, 4].long()


@dataclass(frozen=True)
class _Unadapted:
    """A world as a source of tasks: rollouts of the steps that only prepare."""

    experience: Experience
    learner: Learner
    together: int = 100

    @property
    def seed(self) -> int:
        return self.experience.world.seed

    def draw(self, split: str, first: int, count: int) -> Task:
        return self.experience.gather(self.learner, self.learner.prior, split, first, count)


def film(learner: Learner, experience: Experience, task: int = 0, size: tuple[int, int] = (320, 240), every: int = 4) -> bytes:
    """A robot's first trajectory before adaptation, then after each step, as an animated GIF.

    Frames are drawn off screen, by MuJoCo's own renderer.

    Args:
        learner: adapts from its prior.
        experience: of a robot's world, such as ``locomotion(…)``.
        task: number of the test task.
        size: width and height of a frame.
        every: time steps between frames.

    Raises:
        InputError: the world has no robot, or this machine cannot draw off screen.
    """
    filmed_world: Any = getattr(experience.world, "filmed", None)
    if filmed_world is None:
        raise InputError("only robots can be filmed; give a run of the cheetah or the ant")
    from PIL import Image, ImageDraw

    reel: list[list[Any]] = []
    met = replace(experience, world=filmed_world(reel, size, every))
    tasks = met.gather(learner, learner.prior, "test", task, 1)
    returns = [float(total(r)) for r in met.points(learner, tasks)]
    frames = []
    with bar("filming", len(reel)) as shown:
        for k, (own, value) in enumerate(zip(reel[learner.prepared :], returns, strict=True)):
            for pixels in own:
                image = Image.fromarray(pixels)
                ImageDraw.Draw(image).text((6, 4), f"{_after(k)}, return {value:.0f}", fill=(255, 255, 255))
                frames.append(image.quantize(64))
            shown.to(k + 1)
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=max(20, 10 * every), loop=0)
    return buffer.getvalue()
