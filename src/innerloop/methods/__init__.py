"""The methods, each a composition of steps: a learner is made of a network and a loss.

Common arguments: ``net``, any ``nn.Module``; ``loss``, ``(params, batch) → scalar`` such as
``mse(net)``; ``steps``, the number of adaptation steps; ``rate``, the inner rate, > 0; ``ways``,
the number of a task's classes, which are numbered 0 … ways − 1.
"""

from innerloop.methods.baselines import averaged, head_of, independent, pretrained, with_new_head, without_head
from innerloop.methods.gradient import (
    anil,
    boil,
    context_vector,
    fomaml,
    maml,
    meta_sgd,
    oml,
    per_step_rates,
    reptile,
    toward_end,
)
from innerloop.methods.l2f import attenuated, attenuated_for_all, l2f, mean_prototype, mean_slopes
from innerloop.methods.leo import Penalties, leo
from innerloop.methods.maltml import maltml, meta_finetuned
from innerloop.methods.metric import matching, nearest_neighbour, prototypical
from innerloop.methods.mumomaml import multi_maml, mumomaml
from innerloop.methods.plus_plus import maml_plus_plus, maml_plus_plus_phases
from innerloop.methods.support import by_support

METHODS = {f.__name__: f for f in (maml, fomaml, anil, boil, meta_sgd, per_step_rates, maml_plus_plus, reptile, context_vector, l2f)}
"""Those made of any network and loss, ``(net, loss, steps, rate) → learner``."""

__all__ = [
    "METHODS",
    "Penalties",
    "anil",
    "attenuated",
    "attenuated_for_all",
    "averaged",
    "boil",
    "by_support",
    "context_vector",
    "fomaml",
    "head_of",
    "independent",
    "l2f",
    "leo",
    "maltml",
    "maml",
    "maml_plus_plus",
    "maml_plus_plus_phases",
    "matching",
    "mean_prototype",
    "mean_slopes",
    "meta_finetuned",
    "meta_sgd",
    "multi_maml",
    "mumomaml",
    "nearest_neighbour",
    "oml",
    "per_step_rates",
    "pretrained",
    "prototypical",
    "reptile",
    "toward_end",
    "with_new_head",
    "without_head",
]
