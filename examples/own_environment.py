"""A gymnasium environment of one's own as a distribution of tasks: pendulums of unknown mass and length.

Two methods make an environment a world: one draws tasks, one sets a task. The ten lines of
`Pendulums` are all that is written for it; the rest trains a policy that adapts to a pendulum
from ten swings, and compares it with one that does not adapt. Needs `pip install 'innerloop[rl]'`.

    python examples/own_environment.py
"""

import numpy as np
import torch
from gymnasium.envs.classic_control import PendulumEnv

import innerloop as il
from innerloop import rl
from innerloop.rl.gym import Single


class Pendulums(PendulumEnv):
    """Gymnasium's pendulum with another mass and length in each task."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Masses in kilograms and lengths in metres, a row each."""
        return rng.uniform([0.5, 0.5], [1.5, 1.5], (n, 2))

    def set_task(self, task: np.ndarray) -> None:
        """Swing this one from the next reset on."""
        self.m, self.l = map(float, task)


def main(iterations: int = 30, tasks: int = 20, progress: bool = True) -> tuple[il.Scores, il.Scores]:
    world = Single(Pendulums, horizon=50)
    policy = rl.gaussian_mlp(world.observations, 32, 32, world.actions, generator=torch.Generator().manual_seed(0))
    adapting = rl.judged(il.maml(policy, rl.score(policy), steps=1, rate=0.1), policy)
    fixed = rl.judged(il.pretrained(policy, rl.ratio(policy)), policy)
    experience = rl.Experience(world, trajectories=10)
    scores = []
    for learner in (adapting, fixed):
        trained = rl.train_policy(learner, experience, iterations, meta_batch=10, progress=progress)
        scores.append(rl.evaluate_policy(trained, experience, n_tasks=tasks))
        if progress:
            print(scores[-1])
    return scores[0], scores[1]


if __name__ == "__main__":
    main()
