"""The same numbers on a GPU."""

import pytest
import torch
from conftest import Build

import innerloop as il
from innerloop import Sinusoids, Task
from innerloop.batches import onto
from innerloop.engine import ENGINES, Plan, meta_gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch can use no CUDA device here")


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_meta_gradient_is_that_of_the_cpu(engine: str, method: Build, waves: Task) -> None:
    learner = method()
    there = meta_gradient(learner, Plan.named(engine) or Plan())(onto(learner.prior, "cuda"), onto(waves, "cuda"))
    torch.testing.assert_close(onto(there, "cpu"), meta_gradient(learner)(learner.prior, waves), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_ends_where_it_does_on_the_cpu(precision: str) -> None:
    net = il.mlp(1, 40, 40, 1, generator=torch.Generator().manual_seed(0))
    learner = il.maml(net, il.mse(net))
    expected = il.train(learner, Sinusoids(), 20, progress=False).prior
    found = il.train(learner, Sinusoids(), 20, device="cuda", precision=precision, progress=False).prior
    torch.testing.assert_close(onto(found, "cpu"), expected, rtol=1e-4 if precision == "float32" else 0.2, atol=1e-3)
