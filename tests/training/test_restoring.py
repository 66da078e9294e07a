"""A device that fails while a run is restored is named, and is no reason to give up the checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equiflow import CheckpointError, EquivariantCNF, fit
from tests.support.training import ACTION, OBJECTIVES, SHORT, build, same, weights


def restored(flow: EquivariantCNF, path: Any, **options: Any) -> None:
    fit(flow, ACTION, objective=OBJECTIVES[0], checkpoint=path, **(SHORT | options))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("no more"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("for_good", [True, False], ids=["for good", "once"])
def test_an_error_of_a_device_is_passed_on_as_it_is(error, for_good, tmp_path, monkeypatch):
    restored(build(), tmp_path / "run.pt")
    content = (tmp_path / "run.pt").read_bytes()
    flow = build()
    before, load, calls = weights(flow), flow.load_state_dict, []

    def fails(state: dict[str, Any]) -> Any:
        calls.append(state)
        if len(calls) == 1 or (for_good and isinstance(error, RuntimeError)):
            raise error
        return load(state)

    monkeypatch.setattr(flow, "load_state_dict", fails)
    with pytest.raises(type(error)) as raised:
        restored(flow, tmp_path / "run.pt")
    assert raised.value is error
    assert len(calls) == 2  # once with the saved weights, once with the old ones
    assert same(weights(flow), before)
    assert (tmp_path / "run.pt").read_bytes() == content


def test_other_errors_say_that_the_checkpoint_does_not_fit(tmp_path, monkeypatch):
    restored(build(), tmp_path / "run.pt")
    flow, calls = build(), []
    load = flow.load_state_dict

    def fails_once(state: dict[str, Any]) -> Any:
        calls.append(state)
        if len(calls) == 1:
            raise RuntimeError("size mismatch for weight")
        return load(state)

    monkeypatch.setattr(flow, "load_state_dict", fails_once)
    with pytest.raises(CheckpointError, match=r"does not fit this flow.*size mismatch"):
        restored(flow, tmp_path / "run.pt")
