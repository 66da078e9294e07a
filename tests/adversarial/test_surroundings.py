"""Autocast, the caller's default dtype and device, and threads change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from equiflow import (
    EquivariantCNF,
    PathGradient,
    ReverseKL,
    Solver,
    SymmetryGroup,
    fit,
)
from equiflow.flows import AugmentedFlow, ExtendedAction, SymplecticFlow
from equiflow.runtime.precision import default_dtype
from equiflow.runtime.storage import load_safely, save_atomically
from equiflow.testing import randomise
from tests.support.adversarial import (
    ACTION,
    REFUSED,
    RK4,
    SHORT,
    SQUARE,
    everything,
    generator,
    same,
    tensors,
    weights,
)
from tests.support.strategies import configurations, small_flow


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel_size", [None, 2])
@pytest.mark.parametrize("z2", [True, False])
def test_autocast_never_lowers_the_precision(lower, dtype, kernel_size, z2):
    flow = small_flow(group=SymmetryGroup(SQUARE, z2=z2), kernel_size=kernel_size, solver=RK4).to(dtype)
    expected = everything(flow)
    with torch.autocast("cpu", dtype=lower):
        found = everything(flow)
    assert same(found, expected)


@pytest.mark.parametrize("family", [SymplecticFlow, AugmentedFlow])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_never_lowers_the_precision_of_an_exact_flow(family, dtype):
    flow = family(SQUARE, n_steps=1, n_frequencies=2).to(dtype)
    randomise(flow, scale=0.1)
    action = ExtendedAction(ACTION)

    def results() -> list[Tensor]:
        state, log_q = flow.sample_and_log_prob(3, generator=generator())
        trained = copy.deepcopy(flow)
        fit(trained, action, objective=ReverseKL(), **SHORT)
        return [state, log_q, flow.log_prob(state).detach(), action(state), *weights(trained)]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results()
    assert same(found, expected)


def test_autocast_would_lower_a_plain_product():
    a = torch.randn(4, 4, dtype=torch.float32, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_dtype_of_the_caller_changes_nothing(default, dtype):
    flow = small_flow(solver=RK4).to(dtype)
    expected = everything(flow)
    with default_dtype(default):
        found = everything(flow)
    assert same(found, expected)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_flow_is_built_in_the_default_dtype(default):
    with default_dtype(default):
        flow = EquivariantCNF(SQUARE, solver=RK4)
        assert {p.dtype for p in flow.parameters()} == {flow.dtype} == {default}
        assert flow.sample(2).dtype == default


def test_the_default_device_of_the_caller_changes_nothing():
    flow = small_flow(solver=RK4)
    phi = configurations(SQUARE)
    expected = [*tensors(flow.log_prob(phi)), *flow.sample_and_log_prob(3, generator=generator())]
    with torch.device("meta"):
        found = [*tensors(flow.log_prob(phi)), *flow.sample_and_log_prob(3, generator=generator())]
        fit(copy.deepcopy(flow), ACTION, **SHORT)
    assert same([x.detach() for x in found], [x.detach() for x in expected])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device")
def test_a_generator_or_a_field_on_another_device_is_refused():
    flow = small_flow(solver=RK4).cuda()
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        flow.sample(2, generator=generator())
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        flow.log_prob(configurations(SQUARE))
    with pytest.raises((RuntimeError, *REFUSED), match="device"):
        small_flow(solver=RK4).log_prob(configurations(SQUARE).cuda())


def in_threads(function: Callable[[int], Any], n: int, workers: int = 6) -> list[Any]:
    # A new thread starts with a thread per core, which rounds differently: start it as this one is.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, range(n)))


@pytest.mark.parametrize("adjoint", [False, True])
def test_threads_sample_what_one_would(adjoint):
    flow = small_flow(solver=Solver("rk4", steps=4, adjoint=adjoint))

    def draw(seed: int) -> list[Tensor]:
        path = flow.rsample_path(4, generator=generator(seed))
        return [*flow.sample_and_log_prob(4, generator=generator(seed)), path.phi.detach(), path.score]

    one = [draw(seed) for seed in range(12)]
    assert all(same(a, b) for a, b in zip(in_threads(draw, 12), one, strict=True))
    assert not same(one[0], one[1])


def test_threads_that_share_a_generator_do_not_repeat():
    """The reason for one generator each: a shared one gives every number once, in no fixed order."""
    flow, shared = small_flow(solver=RK4), generator()
    drawn = torch.cat(in_threads(lambda _: flow.sample(2, generator=shared), 12))
    assert len(drawn.flatten(1).unique(dim=0)) == 24


@pytest.mark.parametrize("objective", [PathGradient(), ReverseKL()])
def test_threads_train_what_one_would(objective):
    def train(seed: int) -> list[Tensor]:
        flow = small_flow(seed=seed, solver=RK4)
        fit(flow, ACTION, objective=objective, seed=seed, **SHORT | {"steps": 4})
        return weights(flow)

    one = [train(seed) for seed in range(3)]
    assert all(same(a, b) for a, b in zip(in_threads(train, 3), one, strict=True))
    assert not same(one[0], one[1])


def test_threads_that_save_to_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared.pt"

    def write(n: int) -> set[float]:
        save_atomically({"kind": "thing", "weights": torch.full((20_000,), float(n % 4))}, path)
        return set(load_safely(path, "thing")["weights"].tolist())

    assert all(len(found) == 1 for found in in_threads(write, 60))
    assert list(tmp_path.iterdir()) == [path]
