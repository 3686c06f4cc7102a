"""What changes from iteration to iteration, and the checkpoint that it is saved to and restored from."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop import checkpoint
from innerloop.batches import in_bytes, one, tensors
from innerloop.checkpoint import CHECKPOINT, PRIOR, writable
from innerloop.device import device_of, random_state, undrawn
from innerloop.engine import Plan
from innerloop.errors import InputError
from innerloop.learner import Learner, Task, task_loss
from innerloop.losses import in_test, untrained
from innerloop.outer.encode import decoded, encoded
from innerloop.params import Params, under


@dataclass(frozen=True)
class Witness:
    """What tells learners apart whose names and settings do not: the losses of one task.

    Args:
        task: a digest of it.
        losses: of the learner of each phase, adapted to it; None where one is not a number.
    """

    task: str
    losses: list[float | None]

    @classmethod
    def of(cls, learners: Iterable[Learner], params: Params, task: Task) -> Self:
        """The losses of a batch of one task, with nothing dropped out."""
        digest = blake2b(b"".join(map(in_bytes, tensors(task))), digest_size=8).hexdigest()
        with torch.no_grad(), undrawn(device_of(params)), in_test():
            losses = [task_loss(learner)(params, one(task, 0)).item() for learner in learners]
        return cls(digest, [loss if math.isfinite(loss) else None for loss in losses])

    def see(self, now: "Witness", folder: Path) -> None:
        """Refuse another learner; rounding of another device or precision is none.

        Raises:
            InputError: a loss of the same task is another by more than a hundredth.
        """
        if now.task != self.task:
            return  # made by a source that does not give it again
        for was, loss in zip(self.losses, now.losses, strict=True):
            if was is not None and not (loss is not None and math.isclose(was, loss, rel_tol=0.01, abs_tol=1e-6)):
                now_it_has = "none" if loss is None else f"{loss:.4g}"
                raise InputError(
                    f"the run in {folder} has a loss of {was:.4g} on its first task, and with this learner {now_it_has}; "
                    "go on with the same network, loss and inner rates"
                )


@dataclass
class State:
    """A training between two iterations.

    Args:
        params: the prior, changed in place.
        outer: optimiser of ``params``; None where outer steps have no state.
        schedule: of its rate.
        iteration: how many were taken.
        pending: losses since the last line of metrics.
        plan: how meta-gradients are computed, once it is known.
        best, highest: the prior with the highest return so far, and that return, where the best one is wanted.
        witness: what learner and tasks give at the prior as it is, so that others are noticed when a run goes on.
        began: when the run would have begun, had it never been stopped.
    """

    params: Params
    outer: Optimizer | None
    schedule: LRScheduler | None = None
    iteration: int = 0
    pending: list[float] = field(default_factory=list)
    plan: Plan | None = None
    best: Params = field(default_factory=dict)
    highest: float = -math.inf
    witness: Witness | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """That the run has taken, all of its parts together."""
        return time.perf_counter() - self.began

    @property
    def _random(self) -> dict[str, torch.device]:
        """Whose random numbers go on where they were, by the name of their state."""
        there = device_of(self.params)
        return {"random": torch.device("cpu")} | ({"random there": there} if there.type != "cpu" else {})

    def step(self, gradient: Params) -> None:
        """One more iteration."""
        self.move(gradient)
        if self.schedule:
            self.schedule.step()
        self.iteration += 1

    def move(self, gradient: Params) -> None:
        """A step of the optimiser."""
        assert self.outer is not None, "there is no optimiser to step with"
        for name, p in self.params.items():
            p.grad = gradient[name]
        self.outer.step()

    def save(self, path: Path, same: Mapping[str, Any]) -> None:
        """Write a checkpoint, with what a run must keep to when it goes on.

        Raises:
            InputError: the optimiser or the schedule holds what cannot be kept.
        """
        outer = self.outer.state_dict() if self.outer else {"state": {}, "param_groups": []}
        kept = {f"{kind}.{name}": p for kind, of in (("prior", self.params), ("best", self.best)) for name, p in of.items()}
        plain: dict[str, Any] = {}
        for index, moments in outer["state"].items():
            for key, value in moments.items():
                if isinstance(value, Tensor):
                    kept[f"outer.{index}.{key}"] = value
                else:
                    plain[f"{index}.{key}"] = encoded(value, kept, f"optimizer.{index}.{key}")
        kept["pending"] = torch.tensor(self.pending, dtype=torch.float64)
        kept |= {name: random_state(device) for name, device in self._random.items()}
        rate = encoded(self.schedule.state_dict(), kept, "schedule") if self.schedule else {}
        groups = encoded(outer["param_groups"], kept, "groups")
        about = {"iteration": self.iteration, "outer": plain, "groups": groups, "schedule": rate, "same": same}
        about |= {"highest": self.highest} if self.best else {}
        about |= {"witness": asdict(self.witness)} if self.witness else {}
        checkpoint.save(path, kept, about | {"plan": self.plan and asdict(self.plan), "seconds": self.seconds})

    def go_on(self, folder: Path, iterations: int, same: Mapping[str, Any]) -> None:
        """Become what the folder's checkpoint holds, to take so many iterations in all.

        Raises:
            InputError: there is none, it is damaged or of another run, or it has taken more.
        """
        self.restore(folder / CHECKPOINT, same)
        if (taken := self.iteration) > iterations:
            raise InputError(f"the run in {folder} has taken {taken} iterations already; ask for {taken} or more, or start anew")

    def restore(self, path: Path, same: Mapping[str, Any]) -> None:
        """Become what the checkpoint holds.

        Raises:
            InputError: there is none, it is damaged, or of another run. What the checkpoint does not tell is taken to be the same.
        """
        if not path.is_file():
            raise InputError(f"there is no run to resume in {path.parent}; leave --resume out to start one")
        kept, about = checkpoint.read(path)
        if lacking := {"same", "iteration", "outer", "groups", "schedule", "plan", "seconds"} - about.keys():
            raise InputError(f"{path} is no checkpoint: it has no {min(lacking)}; copy it again, or start the run anew")
        for name, value in about["same"].items():
            if same.get(name) != value:
                raise InputError(f"the run in {path.parent} was made with {name} {value}, not {same.get(name)}; go on with the same")
        for name, p in checkpoint.fitting(self.params, under(kept, "prior"), path).items():
            self.params[name].copy_(p)
        if self.best:
            self.best, self.highest = checkpoint.fitting(self.params, under(kept, "best"), path), about["highest"]
        moments: dict[int, dict[str, Any]] = {}
        for name, value in [*kept.items(), *((f"outer.{key}", decoded(value, kept)) for key, value in about["outer"].items())]:
            if name.startswith("outer."):
                _, index, key = name.split(".", 2)
                moments.setdefault(int(index), {})[key] = value
        if self.outer:
            groups = zip(self.outer.state_dict()["param_groups"], decoded(about["groups"], kept), strict=True)
            self.outer.load_state_dict({"state": moments, "param_groups": [{**made, **saved} for made, saved in groups]})
        if self.schedule:
            self.schedule.load_state_dict(decoded(about["schedule"], kept))
        for name, device in self._random.items():
            random_state(device, kept.get(name))  # none of this device where the run was on another
        self.iteration, self.pending = about["iteration"], kept["pending"].tolist()
        self.witness = Witness(**about["witness"]) if "witness" in about else None
        self.plan, self.began = Plan(**about["plan"]), time.perf_counter() - about["seconds"]


HOW = {"foreach", "fused", "capturable", "differentiable"}
"""Of an optimiser's settings those that change nothing but its speed."""


def kept_by(learner: Learner, outer: Optimizer | None, schedule: LRScheduler | None = None) -> dict[str, Any]:
    """What a run must keep to when it goes on, of learner, optimiser and schedule; ``fitting`` compares names and shapes of the prior."""
    rate = outer.defaults.get("lr") if outer else None
    settings = {f"the optimiser's {name}": value for name, value in (outer.defaults if outer else {}).items() if name not in HOW | {"lr"}}
    fresh = schedule.state_dict() if schedule else {}  # what counts and changes among it is at its beginning in every fresh one
    settings |= {f"the schedule's {name}": value for name, value in fresh.items() if name[:1] != "_" and name != "base_lrs"}
    return {name: [*value] if isinstance(value, tuple) else value for name, value in settings.items() if _is_plain(value)} | {
        "outer_rate": float(rate) if isinstance(rate, (int, float, Tensor)) else None,
        "buffers and frozen parameters": blake2b(str(sorted(untrained(learner.model).items())).encode(), digest_size=8).hexdigest(),
        "steps": len(learner.steps),
        "prepared": learner.prepared,
        "weights": [float(weight) for weight in learner.weights],
    }


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(part, (int, float, str, type(None))) for part in parts)


def place(out: str | Path | None, needed: bool) -> Path | None:
    """The folder of a run, which resuming and tracking need.

    Raises:
        InputError: it is needed, and not given.
    """
    if needed and out is None:
        raise InputError("resume and track need the folder of the run; give out=…")
    return None if out is None else Path(out)


def emptied(folder: Path) -> None:
    """Make the folder of a run, and take away the prior that an earlier one left there: it is not what this one trains.

    Raises:
        InputError: it cannot be made or written.
    """
    (writable(folder) / PRIOR).unlink(missing_ok=True)


def finished(learner: Learner, params: Params, folder: Path | None) -> Learner:
    """The learner with what was trained for its prior, which is written into the folder too."""
    trained = replace(learner, prior={name: p.detach().clone() for name, p in params.items()})
    if folder:
        checkpoint.save(folder / PRIOR, trained.prior, {"untrained": untrained(learner.model)})
    return trained
