"""A meta-iteration of MAML with TRPO on navigation, and rollouts of robots against gymnasium's own loop.

    python benchmarks/policies.py [--threads 2] [--out benchmarks/policies.json]

Everything is measured in one process, turn by turn, and given as medians and as ratios. The
iteration is 20 tasks of 20 trajectories of 100 steps before and after one inner step, and TRPO with
10 products of the Fisher matrix on a quarter of the trajectories. Robots move by a policy of two
layers of 100, which gymnasium's loop asks step by step. Where learn2learn and cherry are installed
(`benchmarks/peers/install.sh FOLDER`), their outer step is timed on the same rollouts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import parameters_to_vector

from innerloop.batches import one
from innerloop.environment import environment
from innerloop.methods import maml
from innerloop.rl import Experience, Navigation, Returns, collect, gaussian_mlp, judged, score, trpo

TURNS = 7


def timed(turns: dict[str, Callable[[], Any]], n: int = TURNS) -> dict[str, float]:
    """Median seconds of each, A B A B."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for f in turns.values():
        f()
    for _ in range(n):
        for name, f in turns.items():
            start = time.perf_counter()
            f()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def navigation() -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each part, and how well two ways agree."""
    policy = gaussian_mlp(2, 100, 100, 2, generator=torch.Generator().manual_seed(0))
    learner = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
    experience = Experience(Navigation(), trajectories=20)
    tasks = experience.gather(learner, learner.prior, "train", 0, 20)
    eager = trpo(learner)
    built = replace(eager, compile=True)
    rough = replace(eager, compile=True, precision="bfloat16")
    whole = replace(trpo(learner, part=1.0), compile=True)
    ways: dict[str, Callable[[], Any]] = {
        "gather": lambda: experience.gather(learner, learner.prior, "train", 0, 20),
        "TRPO, compiled": lambda: built(learner.prior, tasks),
        "TRPO, compiled, products in bfloat16": lambda: rough(learner.prior, tasks),
        "TRPO, compiled, curvature on all rollouts": lambda: whole(learner.prior, tasks),
        "TRPO, eager": lambda: eager(learner.prior, tasks),
        "TRPO by differences of gradients": lambda: replace(eager, hessian="differences")(learner.prior, tasks),
    }
    agreement = {}
    if find_spec("cherry") and find_spec("learn2learn"):
        from peers import l2l_trpo

        each = [one(tasks, i) for i in range(20)]
        theirs = l2l_trpo.prepare(policy, [task.support[0] for task in each], [task.query for task in each], 0.1)
        ways["learn2learn's TRPO, curvature on all rollouts"] = theirs
        there, start = whole(learner.prior, tasks)[0], parameters_to_vector(policy.parameters()).detach()
        ours = torch.cat([there[f"net.{name}"].flatten() for name, _ in policy.named_parameters()]) - start
        agreement = {"cosine of the two outer steps": float(torch.cosine_similarity(ours, theirs() - start, 0))}
    found = timed(ways, n=3)
    steps = {"iteration": "TRPO, compiled", "iteration, products in bfloat16": "TRPO, compiled, products in bfloat16"}
    return found | {name: found["gather"] + found[step] for name, step in steps.items()}, agreement


def robots(robot: Any, name: str, **how: Any) -> dict[str, float]:
    """Environment steps a second, the policy in the loop, one thread of the simulator."""
    import gymnasium
    import numpy as np

    from innerloop.rl.locomotion import locomotion

    world = locomotion(robot, "direction", "v5", horizon=50, threads=1)
    env = gymnasium.make(name, **how)
    policy = gaussian_mlp(world.observations, 100, 100, world.actions, generator=torch.Generator().manual_seed(0))
    learner = maml(policy, score(policy))
    act: Any = learner.model
    tasks, params = world.tasks("train", 0, 40), {n: p.expand(40, *p.shape) for n, p in learner.prior.items()}
    generators = [torch.Generator().manual_seed(k) for k in range(40)]

    def ours() -> None:
        collect(act, params, world, tasks, 20, generators, Returns())

    def loop() -> None:
        seen, _ = env.reset(seed=0)
        with torch.no_grad():
            for _ in range(500):
                told = policy(torch.as_tensor(seen, dtype=torch.float32))
                action = told.act(torch.randn(world.actions)).numpy()
                seen, _, ended, cut, _ = env.step(np.clip(action, -1, 1))
                if ended or cut:
                    seen, _ = env.reset()

    taken = timed({"ours": ours, "gymnasium's loop": loop}, n=5)
    return {"ours": 40 * 20 * 50 / taken["ours"], "gymnasium's loop": 500 / taken["gymnasium's loop"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    walk, agreement = navigation()
    torch.set_num_threads(1)
    ant = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    run = {"cheetah": robots("cheetah", "HalfCheetah-v5"), "ant": robots("ant", "Ant-v5", **ant)}
    given.out.write_text(
        json.dumps({"navigation, seconds": walk, **agreement, "robots, steps a second": run, **environment()}, indent=1) + "\n"
    )
    print(table(walk, run))


def table(walk: dict[str, float], run: dict[str, dict[str, float]]) -> str:
    lines = ["| a meta-iteration of navigation | seconds | × compiled |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2f} | {value / walk['TRPO, compiled']:.1f} |" for name, value in walk.items()]
    lines += ["", "| robots, one core, policy in the loop | ours, steps/s | gymnasium's loop | ratio |", "|---|---|---|---|"]
    for name, rates in run.items():
        ours, loop = rates["ours"], rates["gymnasium's loop"]
        lines.append(f"| {name}, v5 | {ours:,.0f} | {loop:,.0f} | {ours / loop:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
