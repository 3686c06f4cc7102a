"""Gradient-based meta-learning: learn a prior that adapts to a new task in a few gradient steps."""

from innerloop import batches, checkpoint, engine, learner, methods, steps, tasks
from innerloop.errors import Diverged, InputError
from innerloop.evaluate import Scores, adapted, adapted_net, compare, evaluate, predict, tune
from innerloop.experiments import load
from innerloop.learner import Learner, Task, meta_loss, task_loss
from innerloop.losses import accuracy, cross_entropy, cross_entropy_per_shot, mse, supervised
from innerloop.methods import (
    METHODS,
    anil,
    attenuated,
    attenuated_for_all,
    boil,
    by_support,
    context_vector,
    fomaml,
    l2f,
    maltml,
    maml,
    maml_plus_plus,
    maml_plus_plus_phases,
    matching,
    meta_finetuned,
    meta_sgd,
    multi_maml,
    mumomaml,
    nearest_neighbour,
    per_step_rates,
    pretrained,
    prototypical,
    reptile,
    with_new_head,
    without_head,
)
from innerloop.models import OfImages, Recurrent, WithContext, mlp, with_film
from innerloop.outer import Stopped, adam, cosine
from innerloop.tasks import Mixture, Sinusoids, from_function, from_tasks
from innerloop.train import train

__version__ = "0.1.0"
