"""The same MAML meta-gradient by other libraries, each as its own documentation has its users write it.

One file per library, none of which innerloop needs; ``install.sh`` gets them all. Each has one function

    prepare(net, classify, steps, rate, tasks) -> (() -> list[Tensor])

whose result computes one meta-gradient each time it is called: of the query loss after so many
steps of gradient descent at ``rate``, second order, mean over tasks, in the order of
``net.parameters()``. Losses are means: cross-entropy where ``classify``, squared error elsewhere.
Batches of tasks are taken apart when preparing, which is not to be timed. The loops over tasks leave
their gradients in ``.grad`` of the network, which otherwise stays as it is.
"""

from torch import Tensor

Tasks = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, y) of support, then of query, stacked over tasks
