"""Jobs that several processes do together over gloo, as torchrun would start them, without its price.

The processes are forked from a server that has imported torch and equiflow once.
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
# torch imports _dynamo late, at the first step of an optimiser.
CONTEXT.set_forkserver_preload(
    ["equiflow.cli.app", "torch._dynamo", "torch.distributed.launcher.api", "typer.testing"]
)
PATIENCE = 120.0


def together(job: Callable[..., Any], *arguments: Any, n: int = 2) -> list[Any]:
    """What a job returns, or raises, in each of n processes that have joined one group."""
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
                process.join(PATIENCE)
                process.kill()
                process.join()
                process.close()


def alone(job: Callable[..., Any], *arguments: Any) -> Any:
    """The same in a process of its own that has joined nothing."""
    return together(job, *arguments, n=1)[0]


def _received(pipe: Any) -> Any:
    with pipe:
        if not pipe.poll(PATIENCE):
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
    """A disk of its own."""
    path = Path(folder) / f"disk-{rank}"
    path.mkdir()
    return path


def _pickled(result: Any) -> bytes:
    try:
        return pickle.dumps(result)
    except Exception as error:
        return pickle.dumps(error)
