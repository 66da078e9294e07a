"""Run the code of the guides and write what it prints below each block.

    python .docs/guides.py                  # all guides of examples/guides
    python .docs/guides.py gauge couplings  # some

The blocks of a guide are one session: they run in order, in a folder of their own, from seed 0. What a
block of Python or bash prints stands in a block of `text` right below it. Tests run the same blocks and
compare, by `difference`: words must be the same, and numbers with errors must agree within them. A comment
above a block

    <!-- in tests: steps=600 -> steps=60; 4096 -> 512 -->

makes it shorter there; from there on, words alone are compared, up to the first number of a line.
`<!-- not run -->` says that a block is not run at all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "guides"
BLOCK = re.compile(
    r"(?P<comment>(?:<!--[^\n]*-->\n+)?)```(?P<language>python|bash)\n(?P<source>.*?)^```\n"
    r"(?P<shown>(?:\n```text\n(?P<output>.*?)^```\n)?)",
    re.DOTALL | re.MULTILINE,
)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
#: a number with its statistical error
ESTIMATE = re.compile(rf"({NUMBER}) ± ({NUMBER})")
#: what stands behind an estimate only if there is reason to
REMARK = re.compile(rf" ± {NUMBER} \(solver\)| \((?:only|heavy) [^()]*\)")
#: joint errors, and share of the number, within which two runs agree: training amplifies rounding, so that
#: another machine ends at another flow
ERRORS, SHARE = 6.0, 0.03


@dataclass(frozen=True)
class Block:
    """A block of code and what it printed.

    Attributes:
        language: python or bash.
        source: the code.
        output: what it printed when the guide was made; empty if nothing.
        is_run: whether it is run at all.
        shorter: texts and what stands for them in tests.
    """

    language: str
    source: str
    output: str
    is_run: bool = True
    shorter: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, match: re.Match[str]) -> Block:
        """Return the block of a match of `BLOCK`."""
        comment = match["comment"].strip().removeprefix("<!--").removesuffix("-->").strip()
        pairs = []
        if comment.startswith("in tests:"):
            for change in comment.removeprefix("in tests:").split(";"):
                old, _, new = change.partition("->")
                if old.strip() not in match["source"]:
                    raise ValueError(f"{old.strip()!r} is to be replaced in tests and is not there.")
                pairs.append((old.strip(), new.strip()))
        is_run = comment != "not run"
        return cls(match["language"], match["source"], match["output"] or "", is_run, tuple(pairs))

    def for_tests(self) -> str:
        """Return the code as tests run it."""
        source = self.source
        for old, new in self.shorter:
            source = source.replace(old, new)
        return source


def blocks(text: str) -> list[Block]:
    """Return the blocks of a guide."""
    return [Block.of(match) for match in BLOCK.finditer(text)]


class Session:
    """What the blocks of a guide share: names, and a working folder, which is left at the end.

    Args:
        folder: to run in.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder, self.names = folder, {"__name__": "guide"}
        torch.manual_seed(0)

    def run(self, language: str, source: str) -> str:
        """Run code and return what it prints."""
        if language == "bash":
            return self._bash(source)
        printed, before = io.StringIO(), Path.cwd()
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source, "guide", "exec"), self.names)
        finally:
            os.chdir(before)
        return tidy(printed.getvalue())

    def _bash(self, source: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Whatever the terminal is, tables are as wide as a page.
        settings = {"PATH": path, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONPATH": str(FOLDER.parents[1])}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", source],
            cwd=self.folder,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{source}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return tidy(done.stdout)


def tidy(printed: str) -> str:
    """Return what was printed without spaces at the ends of lines and without empty lines at its ends."""
    text = "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")
    return f"{text}\n" if text else ""


def difference(shown: str, printed: str, *, words_alone: bool = False) -> str:
    """Return how the output of a run differs from what a guide shows; empty if it agrees.

    Args:
        shown: in the guide.
        printed: by a run.
        words_alone: whether it is enough that each shown line has one that begins alike, up to its numbers.

    Returns:
        A sentence, or nothing.
    """
    here, there = _lines(shown), _lines(printed)
    if words_alone:  # a flow that is hardly trained may be warned of
        heads = [re.split(rf"\s{{2,}}|{NUMBER}", line.strip())[0].strip() for line in here]
        missing = [head for head in heads if head and not any(head in other for other in there)]
        return f"{', '.join(missing)} is shown and not printed in:\n{printed}" if missing else ""
    if len(here) != len(there):
        return f"{len(here)} lines are shown and {len(there)} are printed:\n{printed}"
    for one, other in zip(here, there, strict=True):
        if _words(one) != _words(other):
            return f"shown:   {one}\nprinted: {other}"
        pairs = zip(ESTIMATE.findall(one), ESTIMATE.findall(other), strict=True)
        for (a, error), (b, other_error) in pairs:
            allowed = ERRORS * (float(error) + float(other_error)) + SHARE * abs(float(a))
            if not abs(float(a) - float(b)) <= allowed:
                return f"{a} ± {error} is shown and {b} ± {other_error} is printed in: {other}"
    return ""


def _lines(text: str) -> list[str]:
    return [REMARK.sub("", line) for line in text.splitlines()]


def _words(line: str) -> str:
    """Return a line without its numbers and without what aligns them."""
    return re.sub(r"[\s─━═]+", " ", re.sub(NUMBER, "#", line)).strip()


def refreshed(text: str, folder: Path) -> Iterator[tuple[Block, str, float]]:
    """Run the blocks of a guide; yield each with what it prints and its processor time.

    Args:
        text: of the guide.
        folder: to run in.

    Yields:
        Blocks in their order.
    """
    session = Session(folder)
    for block in blocks(text):
        start = sum(os.times()[:4])
        printed = session.run(block.language, block.source) if block.is_run else block.output
        yield block, printed, sum(os.times()[:4]) - start


def rewrite(path: Path) -> float:
    """Run a guide and write its outputs into it; return the processor time in seconds."""
    text = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        runs = list(refreshed(text, Path(folder)))
    outputs = iter([printed for _, printed, _ in runs])

    def with_output(match: re.Match[str]) -> str:
        printed = next(outputs)
        code = match[0][: len(match[0]) - len(match["shown"])]
        return code + (f"\n```text\n{printed}```\n" if printed else "")

    new = BLOCK.sub(with_output, text)
    if path.read_text(encoding="utf-8") != text:
        raise RuntimeError(f"{path} was changed meanwhile; run this again.")
    path.write_text(new, encoding="utf-8")
    return sum(seconds for *_, seconds in runs)


def main() -> None:
    """Refresh guides from a shell."""
    about: dict[str, Any] = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**about)
    parser.add_argument("names", nargs="*", help="guides without .md; all unless given")
    names = parser.parse_args().names or sorted(path.stem for path in FOLDER.glob("*.md"))
    for name in names:
        start = time.perf_counter()
        used = rewrite(FOLDER / f"{name}.md")
        print(f"{name}: {used:.0f} s of processor time, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
