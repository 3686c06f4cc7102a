"""Imports only go up, and the core needs torch and numpy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import innerloop

SRC = Path(innerloop.__file__).parent

LAYERS = [
    "errors", "device", "params", "batches", "learner", "steps", "models", "losses", "methods", "engine", "progress",
    "checkpoint", "images", "tasks", "explain", "outer", "train", "evaluate", "rl", "analysis", "environment", "experiments",
    "folders", "estimators", "report", "plots", "tracks", "gallery", "doctor", "commands", "cli",
]  # fmt: skip


def layer(module: str) -> str:
    return module.removeprefix("innerloop.").split(".")[0]


def test_a_module_imports_only_from_those_above_it() -> None:
    found = {path.relative_to(SRC).parts[0].removesuffix(".py") for path in SRC.rglob("*.py")}
    assert found - {"__init__", "__main__"} == set(LAYERS)
    wrong = []
    for path in SRC.rglob("*.py"):
        own = path.relative_to(SRC).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        imported = [str(node.module) for node in nodes]
        imported += [f"innerloop.{name.name}" for node in nodes if node.module == "innerloop" for name in node.names if name.name in LAYERS]
        below = [m for m in imported if m.startswith("innerloop.") and LAYERS.index(layer(m)) > LAYERS.index(own)]
        wrong += [f"{path.relative_to(SRC)} imports {module}" for module in below]
    assert wrong == []


HIDDEN = """
import sys
hidden = "tyro rich safetensors matplotlib scipy sklearn jaxtyping beartype pandas tensorboard PIL pooch requests"
for name in hidden.split():
    sys.modules[name] = None
import innerloop as il
net = il.mlp(1, 8, 1)
trained = il.train(il.maml(net, il.mse(net)), il.Sinusoids(), 2, progress=False)
print(il.evaluate(trained, il.Sinusoids(), n_tasks=3).values.shape[1])
"""


def test_the_core_runs_with_everything_but_torch_and_numpy_hidden() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "2\n"


BROUGHT = """
import sys
import torch, numpy
before = {name.partition(".")[0] for name in sys.modules}
import innerloop
print(*sorted({name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names))
"""


def test_importing_it_brings_nothing_that_takes_long() -> None:
    assert subprocess.run([sys.executable, "-c", BROUGHT], capture_output=True, text=True, check=True).stdout == "innerloop\n"


def test_the_core_of_the_core_is_small() -> None:
    lines = [line for name in ("params.py", "learner.py") for line in (SRC / name).read_text().splitlines() if line.strip()]
    assert len(lines) < 150
