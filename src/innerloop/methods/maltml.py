"""MALTML, learning to meta-learn: the prior moves to a family of tasks first, and adapts to a task of it from there."""

from dataclasses import replace

from torch import Tensor

from innerloop.batches import count
from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Loss, Step, meta_loss
from innerloop.params import Params, Patterns, within
from innerloop.steps import Rate, descend, each_on


def maltml(
    base: Learner,
    meta_steps: int = 1,
    meta_rate: Rate = 0.01,
    *,
    goal: Learner | None = None,
    only: Patterns = "net",
    first_order: bool = False,
) -> Learner:
    """MALTML: θⱼ = θ − β ∇ Σᵢ Lᵢ(Uᵢ(θ)) over a family's related tasks i, trained for Σ_c L_c(U_c(θⱼ)) over its goal tasks c.

    Its tasks are families: the support is a stack of tasks and the query another, each adapted to by U,
    the base learner's steps. As meta-steps are steps, and a learner over tasks is a loss, nothing here knows how
    many levels there are: ``maltml(maltml(base))`` learns to learn to meta-learn.

    Args:
        base: adapts to one task, such as ``maml(net, loss, steps=1, rate=0.001)``; ``fomaml`` leaves
            second derivatives of that level out.
        meta_steps: steps on the related tasks.
        meta_rate: β, on the *sum* over related tasks, as the paper prints it; or a function as for
            ``descend``, where it is learned.
        goal: adapts to goal tasks where that is another learner of the same prior, such as one with another rate γ.
        only: patterns of the names that move in the meta-steps.
        first_order: take the slope of the meta-step as a constant, so that no third derivative is needed.

    >>> from innerloop.losses import mse
    >>> from innerloop.methods import maml
    >>> from innerloop.models import mlp
    >>> from innerloop.tasks import Families, Sinusoids
    >>> learner = maltml(maml(net := mlp(1, 8, 1), mse(net), steps=1, rate=0.001))
    >>> families = Families(Sinusoids(shots=5, queries=5)).draw("train", first=0, count=10)
    >>> meta_loss(learner)(learner.prior, families).shape  # third derivatives are in its gradient
    torch.Size([])

    Raises:
        InputError: there are fewer than 0 steps, no parameter matches, or the goal's prior has other names.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", algorithm 1.
    """
    if meta_steps < 0:
        raise InputError(f"meta_steps is {meta_steps}; take 0 or more")
    within(base.prior, only)  # a pattern that matches nothing is found now
    steps = (descend(summed(base), meta_rate, only, first_order),) * meta_steps
    return Learner(base.prior, steps, meta_loss(_same_names(base, goal or base)))


def meta_finetuned(family: Learner, goal: Learner) -> Learner:
    """A learner for one goal task: the meta-steps on related tasks, then the goal's own steps from there.

    What ``maltml`` has trained is used so, and any other prior can be: it is the same meta-finetuning
    for MAML. The support is ``Related(batch, tasks)``, as ``Goals`` have it; the meta-steps are preparation, so
    scores are listed by the steps on the goal.

    Args:
        family: such as ``maltml(base)``, whose prior and meta-steps are taken.
        goal: adapts to the goal, such as ``base``.

    >>> from innerloop.evaluate import evaluate
    >>> from innerloop.losses import mse
    >>> from innerloop.methods import maml
    >>> from innerloop.models import mlp
    >>> from innerloop.tasks import Families, Goals, Sinusoids
    >>> base = maml(net := mlp(1, 8, 1), mse(net), steps=1, rate=0.001)
    >>> learner = meta_finetuned(maltml(base), base)
    >>> evaluate(learner, Goals(Families(Sinusoids(5, 5))), steps=10, n_tasks=20).values.shape
    torch.Size([20, 11])

    Raises:
        InputError: the goal's prior has other names; when adapting, a task comes without related ones.

    Source: Devos & Dandi 2020, "Model-Agnostic Learning to Meta-Learn", §3.1.
    """
    missing = "the support has no related tasks; draw from Goals(families)"
    own = [_on_its_own(k, step) for k, step in enumerate(_same_names(family, goal).steps)]
    steps = each_on(family.steps, "tasks", missing) + each_on(own, "batch", missing)
    return replace(goal, prior=family.prior, steps=steps, prepared=goal.prepared + len(family.steps))


def _on_its_own(k: int, step: Step) -> Step:
    """Step k on batch k, where there is a list of them."""
    return lambda params, batch: step(params, batch[k] if isinstance(batch, list) else batch)


def summed(learner: Learner) -> Loss:
    """Loss of a batch of tasks: the *sum* of their losses after adaptation."""

    def loss(params: Params, tasks: Batch) -> Tensor:
        return count(tasks) * meta_loss(learner)(params, tasks)

    return loss


def _same_names(base: Learner, goal: Learner) -> Learner:
    if goal.prior.keys() != base.prior.keys():
        raise InputError("the goal learner's prior has other names than the base learner's; make both of the same network")
    return goal
