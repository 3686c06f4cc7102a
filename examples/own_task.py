"""A task of one's own that is no sinusoid: the cooling of a cup, from a few readings of a thermometer.

Every task is a cup: it starts hot, loses heat at its own pace, and ends at the temperature of
its room. From five readings in the first ten minutes, predict the next hour.

    python examples/own_task.py
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

import innerloop as il


def cup(generator: torch.Generator) -> il.Task:
    """One cup: degrees above 20 °C, in tens, against hours; readings are off by about 0.1 °C."""
    start, pace, room = torch.rand(3, generator=generator) * torch.tensor([3.0, 2.0, 1.0]) + torch.tensor([4.0, 1.0, -0.5])

    def readings(hours: Tensor) -> tuple[Tensor, Tensor]:
        heat = room + (start - room) * torch.exp(-pace * hours)
        return hours, heat + 0.01 * torch.randn(hours.shape, generator=generator)

    return il.Task(
        support=readings(torch.rand(5, 1, generator=generator) / 6),
        query=readings(torch.rand(20, 1, generator=generator) + 1 / 6),
    )


def main(iterations: int = 2_000, n_tasks: int = 600, progress: bool = True) -> tuple[il.Scores, il.Scores]:
    """MAML, and pretraining whose rate is chosen on validation tasks: the MSE after 0 … 5 steps of both."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    tasks = il.from_function(cup)
    meta = il.train(il.maml(net, il.mse(net), steps=5, rate=0.01), tasks, iterations, meta_batch=10, progress=progress)
    joint = il.train(il.pretrained(net, il.mse(net)), tasks, iterations, meta_batch=10, progress=progress)

    def fine_tuned(rate: float) -> il.Learner:
        return replace(il.maml(net, il.mse(net), steps=5, rate=rate), prior=joint.prior)

    rate, _ = il.tune(fine_tuned, [1e-4, 1e-3, 1e-2, 1e-1], tasks, steps=5)
    return il.evaluate(meta, tasks, n_tasks=n_tasks), il.evaluate(fine_tuned(rate), tasks, n_tasks=n_tasks)


if __name__ == "__main__":
    meta, joint = main()
    print("MAML", meta, "pretraining, fine-tuned", joint, "MAML − pretraining, task by task", il.compare(meta, joint), sep="\n")
