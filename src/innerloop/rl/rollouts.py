"""Rollouts: what a policy does in a world, and the rollouts that a learner's adaptation asks for, step after step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.batches import one
from innerloop.engine import keep_freed_memory, traced
from innerloop.errors import Diverged, InputError, whole
from innerloop.learner import Learner, Task
from innerloop.params import Params, finite
from innerloop.rl.policies import Policy
from innerloop.rl.returns import Returns
from innerloop.rl.worlds import World
from innerloop.tasks.source import generator_of


class Rollouts(NamedTuple):
    """Trajectories of one task, K of T time steps each; with another axis in front, of several tasks.

    What comes after an episode's end is not ``alive``, and losses and returns leave it out: its first step again, which the policy
    could take, with no reward.

    Args:
        observations: ``[K, T, observations]``, before each action.
        actions: ``[K, T, actions]``, or numbers ``[K, T]`` where they are discrete.
        rewards: ``[K, T]``.
        alive: whether the step was taken, ``[K, T]``.
        log_prob: log π(action) of the policy that acted, ``[K, T]``.
        advantages: how much better than expected, ``[K, T]``.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    log_prob: Tensor
    advantages: Tensor


def total(rollouts: Rollouts) -> Tensor:
    """Undiscounted return, Σ_t r_t, its mean over trajectories."""
    return rollouts.rewards.sum(-1).mean(-1)


def collect(
    policy: Policy,
    params: Params,
    world: World,
    tasks: Tensor,
    trajectories: int,
    generators: Sequence[torch.Generator],
    returns: Returns,
    names: Sequence[str] = (),
) -> Rollouts:
    """Rollouts of several tasks at once, each by parameters of its own: a_t ~ π_φᵢ(· | o_t).

    All that is random of a task comes from its generator, so its rollouts are the same whatever
    other tasks are collected with it.

    Args:
        policy: a learner's model, ``(params, observations) → distribution``. It acts as it was when it was first used with tensors
            of such shapes: what may change later, such as a temperature, must be among the parameters.
        params: stacked, one row a task.
        tasks: rows of numbers, from ``world.tasks``.
        trajectories: of each task.
        generators: one a task.
        returns: how advantages are made of rewards.
        names: of the tasks, for errors; by default, their row.

    Raises:
        InputError: an observation or a reward is NaN or infinite, or the policy's actions are not the world's.
        Diverged: it is, and the parameters that acted are too.
    """
    if trajectories < 1 or world.horizon < 1:
        raise InputError(f"trajectories is {trajectories} and the world's horizon {world.horizon}; both must be 1 or more")
    keep_freed_memory()
    like = next(iter(params.values()))
    device, kind = like.device, like.dtype
    noise = torch.stack([_noise(world, trajectories, g) for g in generators]).to(device, kind)
    told = _for_all_tasks(policy)
    with torch.no_grad():
        episodes = world.begin(tasks.to(device, kind), trajectories, generators)
        # Copies, as the world may write what comes next into the same tensors.
        own = partial(torch.Tensor.to, device=device, dtype=kind, copy=True)
        seen, alive = own(episodes.observation), torch.ones(noise.shape[:2], dtype=torch.bool, device=device)
        cut, steps = torch.zeros_like(alive), []
        _check_policy(policy, params, seen, noise[:, :, 0], world)
        for t in range(world.horizon):
            action = told(params, seen).act(noise[:, :, t])
            following, reward, ended = episodes.step(action)
            steps.append((seen, action, own(reward), alive))
            if (by_limit := getattr(episodes, "cut", None)) is not None:
                cut = cut | (alive & by_limit.to(device))
            seen, alive = own(following), alive & ~ended.to(device)
            if not alive.any():
                break
        observations, actions, rewards, taken = (torch.stack(each, 2) for each in zip(*steps, strict=True))
        _check_finite(observations, actions, rewards, taken, params, names or [f"task {row}" for row in range(len(tasks))])
        last = _last(observations, seen, taken) if returns.bootstrap else None
        if (missing := world.horizon - len(steps)) > 0:
            observations, actions, rewards, taken = (_longer(t, missing) for t in (observations, actions, rewards, taken))
        # Not times 0, as what comes after an episode's end may be NaN; and not 0, which the policy may have no probability for.
        observations, rewards = observations.where(taken.unsqueeze(-1), observations[:, :, :1]), rewards.where(taken, 0)
        actions = actions.where(taken if world.discrete else taken.unsqueeze(-1), actions[:, :, :1])
        log_prob = vmap(policy)(params, observations).log_prob(actions) * taken
        return Rollouts(observations, actions, rewards, taken, log_prob, returns(observations, rewards, taken, last, alive | cut))


@lru_cache(maxsize=8)
def _for_all_tasks(policy: Policy) -> Callable[[Params, Tensor], Any]:
    """The policy at parameters of each task; it is called for every time step, so what is not arithmetic counts.

    Tracing takes as long as many of these steps, so it is done once for each policy.
    """
    return traced(vmap(policy))


def _noise(world: World, trajectories: int, generator: torch.Generator) -> Tensor:
    shape = (trajectories, world.horizon, world.actions)
    if not world.discrete:
        return torch.randn(shape, generator=generator)
    return -(-torch.rand(shape, generator=generator).clamp(1e-20).log()).log()


def _last(observations: Tensor, seen: Tensor, taken: Tensor) -> Tensor:
    """What each episode saw after its last step, of what was seen before every step and in the end."""
    whole = torch.cat([observations, seen.unsqueeze(2)], 2)
    n = taken.sum(-1)[..., None, None].expand(-1, -1, 1, whole.shape[-1])
    return whole.gather(2, n).squeeze(2)


def _longer(t: Tensor, missing: int) -> Tensor:
    return torch.cat([t, t.new_zeros(*t.shape[:2], missing, *t.shape[3:])], 2)


DISTRIBUTIONS = "its forward must return rl.Gaussian(mean, log_sd) or rl.Categorical(logits), as rl.GaussianPolicy(net, actions) does"


def _check_policy(policy: Policy, params: Params, seen: Tensor, noise: Tensor, world: World) -> None:
    """Refuse a policy that does not fit the world, before it is traced: errors of a trace are long."""
    try:
        told = vmap(policy)(params, seen)
    except (RuntimeError, ValueError, TypeError) as problem:
        if "randomness" in str(problem):
            why = "draws random numbers by itself, as dropout does, so that what acted is not what learns"
            raise InputError(f"the policy {why}; call eval() on it first") from problem
        if "return Tensors" in str(problem):
            raise InputError(f"the policy gives no distribution that vmap takes; {DISTRIBUTIONS}") from problem
        raise InputError(f"the policy does not take the world's observations of {seen.shape[-1]} numbers: {problem}") from problem
    if isinstance(told, Tensor) or not all(hasattr(told, part) for part in ("act", "log_prob", "kl")):
        raise InputError(f"the policy gives a {type(told).__name__} and no distribution; {DISTRIBUTIONS}")
    parameters = getattr(told, "logits", getattr(told, "mean", None))
    if parameters is not None:
        discrete, own = hasattr(told, "logits"), parameters.shape[-1]
    else:  # a distribution of one's own
        action = told.act(noise)
        discrete = not action.is_floating_point()
        own = world.actions if discrete else action.shape[-1]
    if discrete != world.discrete:
        kinds = {True: "one of several actions", False: "actions of real numbers"}
        fits = "CategoricalPolicy" if world.discrete else "GaussianPolicy"
        raise InputError(f"the policy gives {kinds[discrete]} but the world takes {kinds[world.discrete]}; use a {fits}")
    if own != world.actions:
        raise InputError(
            f"the policy gives actions of {own} numbers but the world takes {world.actions}; build the policy with {world.actions}"
        )
    if parameters is not None:
        _check_each_alone(policy, params, seen, parameters)


def _check_each_alone(policy: Policy, params: Params, seen: Tensor, acts: Tensor) -> None:
    """Refuse a policy that acts otherwise than it is judged afterwards, when observations of all steps are given at once."""
    must = "must take observations with any axes in front, of which each gives its own distribution"
    try:
        distributions = vmap(policy)(params, torch.stack([seen, seen.flip(1)], 2))
    except (RuntimeError, ValueError, TypeError, IndexError) as problem:
        raise InputError(f"the policy {must}, [trajectories, steps, numbers] too: {problem}") from problem
    judged = getattr(distributions, "logits", getattr(distributions, "mean", None))
    wanted = torch.stack([acts, acts.flip(1)], 2)
    far = max(1e-3, 10 * torch.finfo(acts.dtype).eps) * wanted.abs().amax()
    if judged is None or judged.shape != wanted.shape or (judged - wanted).abs().amax() > far:
        raise InputError(f"the policy {must}; a recurrent layer, or a normalisation by the batch, mixes them")


def _check_finite(observations: Tensor, actions: Tensor, rewards: Tensor, alive: Tensor, params: Params, names: Sequence[str]) -> None:
    for name, of in (("an observation", observations), ("a reward", rewards.unsqueeze(-1))):
        if not (fine := of.isfinite().all(-1) | ~alive).all():
            task, trajectory, time = (~fine).nonzero()[0].tolist()
            before = actions[task, trajectory, : time + (of is not observations)]
            its_own = finite({part: p[task] for part, p in params.items()})
            if not its_own or not before.isfinite().all():
                what = "actions" if its_own else "parameters"
                raise Diverged(f"the {what} that {names[task]} is met with became NaN or infinite; take smaller steps")
            raise InputError(
                f"{name} of {names[task]} is NaN or infinite at time {time} of trajectory {trajectory}; "
                "bound the world's state, or end such an episode before it"
            )


OF_A_WORLD = ("observations", "actions", "discrete", "horizon", "tasks", "begin")


def check_experience(experience: Any) -> None:
    """Refuse what does not gather rollouts."""
    if not (hasattr(experience, "gather") and hasattr(experience, "points")):
        raise InputError(f"experience is a {type(experience).__name__}; give how its tasks are met, such as rl.Experience(world)")


@dataclass(frozen=True)
class Experience:
    """How a learner meets tasks of a world: with fresh rollouts for every step, by the parameters that it has then.

    Args:
        world: where tasks come from.
        trajectories: rollouts that each step sees, and the query.
        preparing: rollouts that each step sees which only prepares, where that is another number.
        again: the first step after those that prepare sees their rollouts once more, not fresh
            ones: so what comes after them was not drawn by what they made. With ``ratio`` inside it is weighted by how likely it is now.
        returns: how advantages are made of rewards.

    Raises:
        InputError: there are no trajectories.

    >>> from innerloop.methods import maml
    >>> from innerloop.rl import Navigation, gaussian_mlp, score
    >>> policy = gaussian_mlp(2, 8, 2)
    >>> learner = maml(policy, score(policy), steps=1, rate=0.1)
    >>> task = Experience(Navigation(horizon=5), trajectories=4).gather(learner, learner.prior, "train", first=0, count=3)
    >>> task.query.rewards.shape  # tasks, trajectories, time
    torch.Size([3, 4, 5])
    """

    world: World
    trajectories: int = 20
    preparing: int | None = None
    again: bool = False
    returns: Returns = field(default_factory=Returns)

    def __post_init__(self) -> None:
        if missing := [name for name in OF_A_WORLD if not hasattr(self.world, name)]:
            raise InputError(
                f"{type(self.world).__name__} is no world, as it has no {missing[0]}; "
                "innerloop.rl.gym.Single(make) is one of gymnasium environments that make() gives"
            )
        if self.trajectories < 1 or (self.preparing is not None and self.preparing < 1):
            raise InputError(f"trajectories is {self.trajectories} and preparing {self.preparing}; give 1 or more")
        whole(trajectories=self.trajectories, preparing=self.preparing or 1, horizon=self.world.horizon)

    def gather(self, learner: Learner, prior: Params, split: str, first: int, count: int) -> Task:
        """Tasks of a split as the learner meets them from that prior, stacked: support[k] is by the parameters before step k.

        Adapting the same prior to them again gives the same path.

        Args:
            learner: whose steps are taken.
            prior: where they begin.
            first, count: which tasks.
        """
        like = next(iter(prior.values()))
        tasks = self.world.tasks(split, first, count).to(like.device, like.dtype)
        shared = {name: p.expand(count, *p.shape) for name, p in prior.items()}
        keys = [(self.world.seed, split, i) for i in range(first, first + count)]
        return self.follow(learner, shared, tasks, keys)

    def follow(self, learner: Learner, params: Params, tasks: Tensor, keys: Sequence[tuple[object, ...]]) -> Task:
        """The same from parameters and tasks in hand, a row each; what is random of a task is a function of its key."""
        support: list[Rollouts] = []
        for k, step in enumerate(learner.steps):
            n = self.preparing or self.trajectories if k < learner.prepared else self.trajectories
            repeated = self.again and support and k == learner.prepared
            support.append(support[-1] if repeated else self._collected(learner, params, tasks, n, keys, k))
            with torch.no_grad():
                params = vmap(step)(params, support[-1])
        return Task(support, self._collected(learner, params, tasks, self.trajectories, keys, len(support)))

    def meet(self, learner: Learner, task: Tensor, seed: int = 0) -> Task:
        """Meet one task that is in hand: rollouts for each step as support, and by what the learner has adapted to as query.

        Args:
            learner: of a policy; it stays as it is.
            task: a row as ``world.tasks(…)`` has them, or as one's own environment is set to.
            seed: of all that is random in the rollouts.

        >>> from innerloop.methods import maml
        >>> from innerloop.rl import Navigation, gaussian_mlp, judged, score
        >>> policy = gaussian_mlp(2, 8, 2)
        >>> learner = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
        >>> met = Experience(Navigation(horizon=5), trajectories=3).meet(learner, Navigation().tasks("test", 0, 1)[0])
        >>> there = learner.adapt(learner.prior, met.support)[-1]
        >>> met.query.rewards.shape, learner.model(there, torch.zeros(2)).mean.shape
        (torch.Size([3, 5]), torch.Size([2]))
        """
        shared = {name: p.unsqueeze(0) for name, p in learner.prior.items()}
        row = torch.as_tensor(task).to(next(iter(shared.values()))).unsqueeze(0)
        return one(self.follow(learner, shared, row, [(seed, "in hand", 0)]), 0)

    def points(self, learner: Learner, tasks: Task) -> list[Rollouts]:
        """The rollouts of gathered tasks before the first step that counts, and after each of them."""
        return [*tasks.support[learner.prepared :], tasks.query]

    def asked(self, split: str, first: int, count: int) -> Tensor:
        """The tasks that are asked, a row each."""
        return self.world.tasks(split, first, count)

    def going(self, learner: Learner, steps: int) -> tuple[Learner, "Experience"]:
        """The learner taking so many steps on a task, and how it meets tasks then."""
        return learner.taking(steps), self

    def _collected(
        self, learner: Learner, params: Params, tasks: Tensor, trajectories: int, keys: Sequence[tuple[object, ...]], phase: int
    ) -> Rollouts:
        if learner.model is None:
            raise InputError("the learner has no model to act with; build it from a policy")
        if tasks.ndim == 3:  # they change from step to step
            tasks = tasks[:, min(phase, tasks.shape[1] - 1)]
        generators = [generator_of(*key, phase) for key in keys]
        return collect(learner.model, params, self.world, tasks, trajectories, generators, self.returns, list(map(_named, keys)))


def _named(key: tuple[object, ...]) -> str:
    """A task by its key: its number and split, and where in a family it is."""
    _, split, number, *within = key
    return " ".join(map(str, ("task", number, "of", repr(split), *within)))
