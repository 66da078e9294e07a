"""The command line: `equiflow train`, `resume`, `watch`, `sample`, `measure`, `report`, `check`, ...

`equiflow --install-completion` teaches bash, zsh, fish or PowerShell to complete commands and options by the
Tab key, from the next shell on; `equiflow --show-completion` prints what it would add.

A run is a folder (`equiflow.cli.run.folder.Run`), made from a config file (`equiflow.cli.config.schema`).
Needs the extra `cli`; `import equiflow` imports none of it.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

from equiflow.runtime import interrupts


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print a warning as a sentence for users of commands, without the line of code that gave it."""
    name = "Warning" if issubclass(category, UserWarning) else category.__name__
    sys.stderr.write(f"{name}: {message}\n")


def main() -> None:
    """Entry point of the command `equiflow`."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a character that the terminal lacks stops no command
    if sys.argv[1:] == ["--version"]:  # without typer, which takes longer than all the rest
        import equiflow

        sys.stdout.write(f"equiflow {equiflow.__version__}\n")
        sys.exit(0)
    try:
        from equiflow.cli.app import start

        start()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "equiflow":
            raise
        sys.exit(f"The command line needs {error.name}: pip install '.[cli]'.")
    except KeyboardInterrupt:
        sys.exit(interrupts.STATUS)
