"""How a command ends: with one sentence for errors that users can mend, with status 130 after Ctrl-C."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import typer

from equiflow import SolverError, TrainingDivergedError
from equiflow.cli.config.errors import ConfigError
from equiflow.cli.run.errors import RunError
from equiflow.runtime import distributed, interrupts
from equiflow.runtime.devices import is_of_memory
from equiflow.runtime.distributed import ElsewhereError
from equiflow.runtime.storage import CheckpointError

#: errors that a user can cause and mend: a command reports their message without a traceback
USER_ERRORS = (
    ElsewhereError,
    ConfigError,
    RunError,
    CheckpointError,
    SolverError,
    TrainingDivergedError,
    ImportError,
    OSError,
    ValueError,
)
#: errors that all processes of a command meet alike: only the first process reports them
SHARED_ERRORS = (ElsewhereError, CheckpointError, RunError)
F = TypeVar("F", bound=Callable[..., Any])


def reports_errors(command: F) -> F:
    """Return the command, which now reports errors that the user can mend and ends with status 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            with interrupts.raised():
                return command(*args, **options)
        except USER_ERRORS as error:
            if isinstance(error, SHARED_ERRORS) and not distributed.is_first():
                raise typer.Exit(1) from None
            if isinstance(error, BrokenPipeError):  # nobody reads on, as with `equiflow config | head -1`
                drop_output()
                raise typer.Exit(1) from None
            fail(str(error) if not isinstance(error, OSError) else of_system(error))
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
            why = next(iter(str(error).splitlines()), "")  # torch goes on with lines of its source code
            fail(f"There is not enough memory: take smaller batches or fewer samples. {why}")
        except KeyboardInterrupt:
            if not distributed.is_first():
                raise typer.Exit(interrupts.STATUS) from None
            fail("Stopped.", interrupts.STATUS)

    return wrapped  # type: ignore[return-value]


def in_processes(command: F) -> F:
    """Return the command, which torchrun may now start in several processes that work together."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        with distributed.session():
            return command(*args, **options)

    return wrapped  # type: ignore[return-value]


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command with a message.

    Args:
        message: printed to stderr.
        status: exit status of the command.
    """
    who = "" if distributed.is_first() else f"process {distributed.rank()}: "
    colourless = bool(os.environ.get("NO_COLOR"))
    typer.echo(who + message if colourless else typer.style(who + message, fg=typer.colors.RED), err=True)
    raise typer.Exit(status)


def of_system(error: OSError) -> str:
    """Return the message of an error of the operating system."""
    why = "a symbolic link leads back to itself" if error.errno == errno.ELOOP else error.strerror
    if error.filename is None:
        return f"The system refused: {why or error}."
    return f"{error.filename}: {why}."


def drop_output() -> None:
    """Let what is still to be printed go nowhere, so that Python does not complain about it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
