"""Keys that are set from outside of a file."""

from __future__ import annotations

import pytest

from equiflow.cli.config.errors import ConfigError
from tests.support.cli_runs import parse


def test_overrides_are_typed_and_refused_like_keys():
    config = parse("", "training.steps=5", "field.kind=orbit", "run.tensorboard=true", "lattice.shape=[6, 6]")
    assert (config.training.steps, config.field.kind) == (5, "orbit")
    assert (config.run.tensorboard, config.lattice.shape) == (True, [6, 6])
    for override, message in (
        ("training.stps=5", "did you mean steps"),
        ("training.steps=many", "valid integer"),
        ("steps=5", "write section.key=value"),
        ("training.steps", "write section.key=value"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse("", override)


def test_overrides_can_say_all_that_a_key_can_be():
    config = parse(
        "[optimiser]\nlearning_rate = 0.1\n[[ladder]]\nshape = [2, 2]",
        "optimiser.learning_rate=none",
        "compute.compile=True",
        "ladder=[]",
        "start.flow=2024-05-01",
        "symmetry.point=none",
    )
    assert config.optimiser.learning_rate is None
    assert config.compute.compile is True
    assert config.ladder == []
    assert (config.start.flow, config.symmetry.point) == ("2024-05-01", "none")
    assert parse("", "start.flow=2024").start.flow == "2024"
    assert parse("", "start.flow=None").start.flow is None
    assert parse("", "ladder=[{shape=[2, 2]}]", "ladder.1.steps=7").ladder[0].steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=none", r'\[training\] steps = "none": .*valid integer'),
        ("training.steps=2.5", r"\[training\] steps = 2.5: .*valid integer"),
        ("compute.compile=yes", "valid boolean, true or false"),
        ("field.kind=none", r'\[field\] kind = "none": expected potential or'),
        ("objective.parts.1.kind=path", r"no \[\[objective.parts\]\].* and objective.kind=mixture"),
        ("ladder.1.steps=3", r"there is no \[\[ladder\]\].*--set 'ladder=\[\{"),
        ("ladder=[3]", r"ladder = 3: expected a table \[\[ladder\]\] 1 with keys"),
    ],
)
def test_overrides_that_say_nothing_are_told_the_way_out(override, message):
    with pytest.raises(ConfigError, match=message):
        parse("", override)
