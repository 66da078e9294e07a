"""Chains that keep their fields: refused if most do, named if some do, and not seen where chains move."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from equiflow import (
    HMC,
    Action,
    Alternate,
    IndependenceMetropolis,
    Kernel,
    Lattice,
    LocalMetropolis,
    Phi4,
    SwendsenWang,
    Wolff,
    measure,
)
from equiflow.oracles import transfer_matrix
from equiflow.samplers.acceptance import Outcome
from equiflow.samplers.moves import check_moves, stuck_chains
from equiflow.statistics import estimate_of_series
from equiflow.theories.scalar.observables import phi_squared
from tests.support.updates import coarse_flow, generator

ACTION = Phi4(Lattice((4, 4)), m2=-1.0, lam=2.0)


@pytest.mark.parametrize("n_thermalisation", [0, 3, 10, 40])
@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: HMC(ACTION, step_size=5.0), "smaller step_size"),
        (lambda: LocalMetropolis(ACTION, width=1e6), "The width is 1e.06: give a smaller one"),
        (lambda: Alternate(SwendsenWang(ACTION), HMC(ACTION, step_size=5.0)), "smaller step_size"),
        (lambda: HMC(ACTION, first_step=5.0), "longer n_thermalisation"),
    ],
    ids=["HMC", "local", "behind clusters", "untuned"],
)
def test_chains_that_do_not_move_are_refused_however_short_the_thermalisation(make, remedy, n_thermalisation):
    if make().is_tuned or n_thermalisation == 0:
        with pytest.raises(RuntimeError, match=rf"8 of 8 .* chains accepted no .*{remedy}"):
            make().sample(50, n_chains=8, n_thermalisation=n_thermalisation, generator=generator())


def test_single_chains_that_do_not_move_are_named_where_sample_was_called():
    start = torch.zeros(8, 4, 4, dtype=torch.float64)
    start[3] = 300.0  # where the force is too large for any step that suits the other chains
    kernel = HMC(ACTION, step_size=0.1)
    with pytest.warns(UserWarning, match="1 of 8 HMC chains accepted no trajectory in 40 updates") as seen:
        kernel.sample(20, n_chains=8, n_thermalisation=40, initial=start, generator=generator())
    assert seen[0].filename == __file__
    start[3] = 0.0
    kernel.sample(20, n_chains=8, n_thermalisation=40, initial=start, generator=generator())


@pytest.mark.parametrize("kind", [SwendsenWang, Wolff])
def test_clusters_alone_are_warned_of_and_their_averages_are_wrong(kind: Callable[[Action], Kernel]):
    action = Phi4(Lattice((3, 3)), m2=-1.0, lam=2.0)
    truth = transfer_matrix(action).phi_squared
    name = kind.__name__
    for kernel, who, turns in (
        (kind(action), f"{name} alone never changes", f"HMC(action), {name}(action)"),
        (
            Alternate(kind(action), Alternate(SwendsenWang(action))),
            f"{name} and SwendsenWang never change",
            f"HMC(action), {name}(action), SwendsenWang(action)",
        ),
    ):
        told = re.escape(f"{who} the moduli") + ".*" + re.escape(f"Write Alternate({turns}),")
        with pytest.warns(UserWarning, match=told) as seen:
            chain = kernel.sample(50, n_chains=16, n_thermalisation=20, generator=generator())
        assert seen[0].filename == __file__
        assert abs(float(phi_squared(chain.configurations).mean()) - truth) > 0.5 * truth
    mixed = Alternate(HMC(action), kind(action)).sample(200, n_chains=16, generator=generator())
    assert abs(mixed.mean(phi_squared).sigmas_from(truth)) < 4


def test_independent_proposals_that_are_all_rejected_are_warned_of():
    action = Phi4(Lattice((3,)), m2=-1.0, lam=0.8)
    sampler = IndependenceMetropolis(coarse_flow(action.lattice), action)
    options = {"certify": 0, "batch_size": 12, "generator": generator()}
    good = sampler.sample(4, n_chains=3, **options)
    best = replace(good, log_weight=torch.full((4, 3), 50.0))
    with pytest.warns(UserWarning, match="No chain of 3 accepted any of 20 proposals") as seen:
        sampler.sample(20, start=best, **options)
    assert seen[0].filename == __file__
    sampler.sample(20, start=good, **options)


def total(accepted: list[float], probability: list[float]) -> Outcome:
    return Outcome(torch.tensor(accepted), torch.tensor(probability))


def test_a_chain_without_luck_is_not_stuck():
    # The first has moved, the second could have, the third was moved by luck, the last did not and cannot.
    outcome = total([5.0, 0.0, 1.0, 0.0], [5.2, 0.4, 0.01, 0.01])
    assert stuck_chains(outcome).tolist() == [False, False, False, True]


@pytest.mark.parametrize(("n_updates", "n_chains", "refused"), [(20, 1, True), (9, 1, False), (1, 10, True)])
def test_few_updates_tell_only_whether_no_chain_moved(n_updates, n_chains, refused):
    def check(outcome: Outcome) -> None:
        check_moves(outcome, n_updates, who="chains", remedy="", warn=True, stacklevel=2)

    none: Tensor = torch.zeros(n_chains, dtype=torch.float64)
    if refused:
        with pytest.raises(RuntimeError, match=f"{n_chains} of {n_chains} chains in {n_updates} updates"):
            check(Outcome(none, none))
    else:
        check(Outcome(none, none))
    check(Outcome(none + 1, none + 0.3))


def test_outcomes_add_up_with_their_parts():
    one = Outcome(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.2]), (total([1.0, 0.0], [0.1, 0.2]),))
    twice = one + one
    assert twice.accepted.tolist() == [2.0, 0.0]
    assert twice.parts[0].probability.tolist() == pytest.approx([0.2, 0.4])


def test_sampling_without_a_graph_is_the_same_in_inference_mode():
    class Quartic(Action):
        def forward(self, phi: Tensor) -> Tensor:
            return (phi.square() + phi**4).flatten(1).sum(1)

    quartic, drawn = Quartic(Lattice((2, 2))), []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), warnings.catch_warnings():
            chain = HMC(quartic).sample(5, n_chains=4, n_thermalisation=12, generator=generator())
            more = chain.kernel.sample(3, start=chain, generator=generator(1))
            updated, _ = HMC(quartic).update(chain.samples[-1].clone(), generator(2))
            binder = estimate_of_series(lambda a, b: b / a**2, chain.series(phi_squared), chain.acceptance)
            measured = measure(chain).susceptibility
            numbers = [binder.error, chain.mean(phi_squared).error, measured.mean, measured.error]
        drawn.append((chain.samples, more.samples, updated, torch.tensor(numbers)))
    for plain, inferred in zip(*drawn, strict=True):
        assert torch.equal(plain, inferred)
    # What was drawn in inference mode can be differentiated later.
    assert not drawn[1][0].is_inference()


def test_small_integers_of_numpy_do_not_hide_chains_that_stand_still():
    # 100 samples of 2 updates are more than an int8 holds.
    kernel = HMC(Phi4(Lattice((2, 2)), m2=-1.0, lam=2.0), step_size=3.0, trajectory_length=6.0)
    counts = {"n_chains": np.int8(8), "n_thermalisation": np.int8(0), "thin": np.int8(2)}
    with pytest.raises(RuntimeError, match="8 of 8 HMC chains accepted no trajectory"):
        kernel.sample(np.int8(100), **counts)
