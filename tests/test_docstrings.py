"""How docstrings read: a verb first, and every parameter and result of a public function said."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import equiflow

PACKAGE = Path(equiflow.__file__).parent
#: first words that make a fragment of what should be a sentence
NO_VERBS = {
    *("A", "All", "An", "And", "At", "Both", "By", "Each", "Every", "For", "From", "Here", "How", "If", "In"),
    *("It", "Its", "Like", "Of", "On", "One", "Or", "Our", "Same", "See,", "Some", "That", "The", "Their"),
    *("Them", "There", "These", "This", "Those", "To", "What", "When", "Where", "Which", "Who", "With"),
}
#: commands of the command line say their options by annotations
HAS_OPTIONS_ELSEWHERE = {"cli/app.py"}


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield methods and functions with their names, those inside of functions left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{owner}{node.name}", node
        elif isinstance(node, ast.If):
            yield from functions(node, owner)


def is_property(function: ast.FunctionDef) -> bool:
    names = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any(name.endswith(("property", ".setter")) for name in names)


def faults(source: str, *, options_elsewhere: bool = False) -> list[str]:
    """What is wrong with the docstrings of a module."""
    found = []
    for name, function in functions(ast.parse(source)):
        text = ast.get_docstring(function)
        overloaded = any(ast.unparse(decorator) == "overload" for decorator in function.decorator_list)
        if text is None or overloaded or is_property(function):
            continue
        first = text.split(maxsplit=1)[0].strip("`")
        if first in NO_VERBS:
            found.append(f"{name} begins with {first!r}")
        if not text.splitlines()[0].rstrip().endswith((".", ":")):
            found.append(f"{name} begins with a line that is no sentence")
        is_private = any(part.startswith("_") for part in name.split("."))
        if is_private or text.startswith("See ") or options_elsewhere:
            continue
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        parameters = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
        if len(parameters) < 2:
            continue
        if "Args:" not in text:
            found.append(f"{name} lacks Args")
        missing = [p for p in parameters if f"\n    {p}:" not in text and f"\n    {p} (" not in text]
        if "Args:" in text and missing:
            found.append(f"{name} says nothing of {', '.join(missing)}")
        returns = None if function.returns is None else ast.unparse(function.returns)
        if returns not in (None, "None", "NoReturn", "Never") and not {"Returns:", "Yields:"} & set(
            text.split()
        ):
            found.append(f"{name} lacks Returns")
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_docstrings_are_complete(path):
    elsewhere = path.relative_to(PACKAGE).as_posix() in HAS_OPTIONS_ELSEWHERE
    assert faults(path.read_text(encoding="utf-8"), options_elsewhere=elsewhere) == []


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("The sum of both.", "begins with 'The'"),
        ("Return the sum", "no sentence"),
        ("Return the sum.", "lacks Args"),
        ("Return the sum.\n\n    Args:\n        a: one.\n        b: other.", "lacks Returns"),
        ("Return the sum.\n\n    Args:\n        a: one.\n\n    Returns:\n        It.", "nothing of b"),
    ],
)
def test_each_fault_is_seen(docstring, fault):
    source = f'def add(a: int, b: int) -> int:\n    """{docstring}\n    """\n'
    assert any(fault in found for found in faults(source))


def test_what_is_right_passes():
    text = """Return the sum.

    Args:
        a: one.
        b: other.

    Returns:
        The sum.
    """
    assert faults(f"def add(a: int, b: int) -> int:\n    '''{text}'''\n") == []
