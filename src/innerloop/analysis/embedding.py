"""What an encoder tells of tasks, and whether their modes can be read from it."""

import torch
from torch import Tensor

from innerloop.analysis.tasks import of_each
from innerloop.errors import InputError
from innerloop.learner import Learner, Task
from innerloop.methods.mumomaml import EMBEDDING
from innerloop.params import Params
from innerloop.tasks import Source


def embeds(learner: Learner) -> bool:
    """Whether an encoder tells the learner of each task."""
    return any(name.startswith(("encoder.", "head.")) for name in learner.prior)  # of a frozen encoder the heads alone are in the prior


def embeddings(learner: Learner, tasks: Source, n_tasks: int = 1_000, *, split: str = "test", device: str = "cpu") -> Tensor:
    """What the learner's encoder tells of each task, ``[tasks, size]``.

    Args:
        learner: such as ``mumomaml``.
        tasks: where tasks come from.
        n_tasks: tasks 0 … n_tasks − 1 of the split.

    >>> from innerloop import Recurrent, Sinusoids, mlp, mse, mumomaml, with_film
    >>> learner = mumomaml(net := with_film(mlp(1, 8, 1)), mse(net), encoder=Recurrent(2, hidden=3))
    >>> embeddings(learner, Sinusoids(), n_tasks=20).shape
    torch.Size([20, 6])

    Raises:
        InputError: the learner has no encoder.

    Source: Vuorio et al. 2018, arXiv:1812.07172 (MuMoMAML), Fig. 4.
    """
    if not embeds(learner):
        raise InputError("the learner has no encoder, so it embeds no task; give one such as mumomaml(…)")

    encoding = learner.taking(0)  # the encoder is asked before the first step

    def told(params: Params, task: Task) -> Tensor:
        return encoding.adapt(params, task.support)[-1][EMBEDDING]

    return of_each(told, learner.prior, tasks, n_tasks, split, device)


def probe(embedding: Tensor, modes: Tensor, folds: int = 5) -> float:
    """Part of the tasks whose mode a linear classifier reads off their embedding, 0 to 1, cross-validated.

    Args:
        embedding: ``[tasks, size]``.
        modes: true mode of each task, ``[tasks]``.
        folds: parts, each of which is told by a classifier of the others; fewer where a mode has fewer tasks.

    >>> modes = torch.arange(40) % 2
    >>> probe(torch.stack([modes, modes], dim=1) + 0.0, modes)
    1.0

    Raises:
        InputError: there are fewer than two modes, or than two tasks of one.
    """
    there, counts = modes.unique(return_counts=True)
    few = int(counts.min())
    if few < 2 or len(there) < 2:
        raise InputError(f"there are {len(there)} modes, one of {few} tasks; give two tasks or more of each of two modes or more")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return float(cross_val_score(classifier, embedding.numpy(), modes.numpy(), cv=min(folds, few)).mean())


def in_the_plane(embedding: Tensor, seed: int = 0) -> Tensor:
    """Embeddings laid out in two dimensions so that neighbours stay neighbours (t-SNE), ``[tasks, 2]``."""
    from sklearn.manifold import TSNE

    near = min(30.0, (len(embedding) - 1) / 3)
    return torch.from_numpy(TSNE(random_state=seed, perplexity=near, init="pca").fit_transform(embedding.numpy()))
