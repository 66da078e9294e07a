"""What a constructor was given is recorded, by position or by keyword, at every level of inheritance."""

from __future__ import annotations

import copy
import inspect
import pickle
from abc import ABC

import pytest
import torch
from torch import nn

from equiflow.runtime.options import REQUIRED, Option, RecordsOptions, options_of


class Walk(RecordsOptions):
    """A walk on a lattice.

    Args:
        lattice: where it happens.
        n_steps: number of steps;
            each of length one.
        group: symmetry of the walk.
        bias (float): drift per step: positive
            to the right.

    Raises:
        ValueError: never.
    """

    def __init__(
        self, lattice: object, n_steps: int = 4, *, group: object = None, bias: float | None = None
    ) -> None:
        self.lattice, self.n_steps = lattice, n_steps


class Slow(Walk):
    """Options of its own; passes others on."""

    def __init__(self, lattice: object, delay: int, *, group: object = None) -> None:
        super().__init__(lattice, 2, group=group, bias=1.0)


class Same(Slow):
    """No constructor."""


class Open(Walk):
    """Hands down what it does not know.

    Args:
        seed: of the noise.
    """

    def __init__(self, lattice: object, *, seed: int = 0, **options: object) -> None:
        super().__init__(lattice, **options)


class Sorted(Walk):
    """Works out its own values."""

    def __init__(self, lattice: object, n_steps: object = "few", *, bias: object = None) -> None:
        super().__init__(lattice)
        self._record(n_steps={"few": 3}.get(n_steps, n_steps), seed=7)


class Shy(Sorted):
    """Its parent records an option that it does not take."""

    def __init__(self, lattice: object) -> None:
        super().__init__(lattice, "few")


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (Walk("lattice"), {"n_steps": 4, "bias": None}),
        (Walk("lattice", 5), {"n_steps": 5, "bias": None}),
        (Walk(bias=2.0, group="D4", n_steps=6, lattice="lattice"), {"n_steps": 6, "bias": 2.0}),
        (Slow("lattice", 1), {"delay": 1}),
        (Same("lattice", delay=1, group="D4"), {"delay": 1}),
        (Open("lattice", n_steps=3, group="D4"), {"seed": 0, "n_steps": 3}),
        (Sorted("lattice"), {"n_steps": 3, "bias": None}),
        (Sorted("lattice", 8), {"n_steps": 8, "bias": None}),
        (Shy("lattice"), {}),
    ],
)
def test_options_are_recorded_in_the_order_of_the_signature(made, config):
    assert list(made.config().items()) == list(config.items())


@pytest.mark.parametrize(
    "made", [Walk("lattice", 5), Slow("l", 1), Same("l", 2), Open("l", n_steps=3), Shy("l")]
)
def test_the_recorded_options_rebuild_the_object(made):
    again = type(made)("lattice", **made.config())
    assert again.config() == made.config()
    assert again.n_steps == made.n_steps


def test_what_is_no_plain_value_is_left_out_unless_it_is_recorded_as_one():
    class Network(Walk):
        def __init__(self, lattice, *, depth=2, function=None, sizes=(1, [2]), table=None):
            super().__init__(lattice)
            if callable(function):
                self._record(function=function.__name__)

    made = Network("lattice", table=object(), function=torch.sin)
    assert list(made.config().items()) == [("depth", 2), ("function", "sin"), ("sizes", (1, [2]))]
    assert "sizes" not in Network("lattice", sizes=[object()]).config()


def test_a_wrong_call_fails_as_it_does_without_recording():
    for call in (lambda: Walk(), lambda: Walk("lattice", steps=3), lambda: Slow("lattice")):
        with pytest.raises(TypeError, match=r"__init__\(\) "):
            call()


def test_the_signature_stays_readable():
    assert list(inspect.signature(Walk).parameters) == ["lattice", "n_steps", "group", "bias"]


class Module(RecordsOptions, nn.Module, ABC):
    """As vector fields and priors are."""

    def __init__(self, lattice: object, width: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_know_the_options(copied):
    made = Module("lattice", 3)
    other = copied(made)
    assert other.config() == {"width": 3}
    other._record(width=4)
    assert made.config() == {"width": 3}
    assert set(made.state_dict()) == {"linear.weight", "linear.bias"}


def test_options_of_a_class_come_with_type_default_and_text():
    assert options_of(Walk) == (
        Option("n_steps", int, 4, "number of steps; each of length one."),
        Option("bias", float | None, None, "drift per step: positive to the right."),
    )
    # Not documented, and without a default.
    assert options_of(Slow) == options_of(Same) == (Option("delay", int, REQUIRED, ""),)
    assert options_of(Open) == (Option("seed", int, 0, "of the noise."),)
    assert options_of(RecordsOptions) == ()
    assert RecordsOptions().config() == {}


def test_the_text_may_be_in_the_docstring_of_the_constructor():
    class Plain:
        def __init__(self, lattice: object, *, n: int = 1) -> None:
            """Make it.

            Args:
                n: how many.
            """

    assert options_of(Plain) == (Option("n", int, 1, "how many."),)
