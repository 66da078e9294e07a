"""Functions that run in several processes joined over gloo, like under torchrun but started faster.

The processes are forked from a server that has imported torch, equiflow and the jobs once.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
# All that jobs need, which would take each process two seconds; what is not installed is left out.
# torch imports _dynamo late, at the first step of an optimiser.
CONTEXT.set_forkserver_preload(
    [
        *("torch._dynamo", "torch.distributed.launcher.api", "typer.testing", "scipy.optimize"),
        *("tests.support.distributed_jobs", "equiflow.fused.solving", "equiflow.fused.ridge_fields"),
    ]
)
#: how long to wait for a result, and for a process to end
MAX_WAIT_SECONDS = 120.0


def together(job: Callable[..., Any], *arguments: Any, n: int = 2) -> list[Any]:
    """Run a job in each of n processes that have joined one group.

    Args:
        job: function to call, importable by name.
        arguments: its arguments.
        n: number of processes.

    Returns:
        For each process, the result of the job, or the exception that it raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(n)]
        processes = [
            CONTEXT.Process(target=_work, args=(rank, n, folder, pipes[rank][1], job, arguments))
            for rank in range(n)
        ]
        for process, (_, sending) in zip(processes, pipes, strict=True):
            process.start()
            sending.close()
        try:
            return [_received(receiving) for receiving, _ in pipes]
        finally:
            for process in processes:
                process.join(MAX_WAIT_SECONDS)
                process.kill()
                process.join()
                process.close()


def alone(job: Callable[..., Any], *arguments: Any) -> Any:
    """Run a job in one new process that has joined no group, and return its result or exception."""
    return together(job, *arguments, n=1)[0]


def _received(pipe: Any) -> Any:
    """Return the result that a process sends, or raise a TimeoutError."""
    with pipe:
        if not pipe.poll(MAX_WAIT_SECONDS):
            raise TimeoutError("a process has not come to its end")
        return pickle.loads(pipe.recv_bytes())


def _work(rank: int, n: int, folder: str, pipe: Any, job: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.chdir(_own(folder, rank))
    if n > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=n)
    try:
        result = job(*arguments)
    except BaseException as error:
        result = error
    pipe.send_bytes(_pickled(result))
    pipe.close()
    if n > 1:
        dist.destroy_process_group()


def _own(folder: str, rank: int) -> Path:
    """Make and return the folder that stands for the disk of one process."""
    path = Path(folder) / f"disk-{rank}"
    path.mkdir()
    return path


def _pickled(result: Any) -> bytes:
    """Return the pickled result, or the pickled error if it cannot be pickled."""
    try:
        return pickle.dumps(result)
    except Exception as error:
        return pickle.dumps(error)
