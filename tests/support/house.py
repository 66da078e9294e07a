"""The house as the imports draw it: files, rooms, floors, arrows and circles, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: a module of the package by its name without `equiflow.`, "" for the package itself -> its source
Sources = Mapping[str, str]


def read_package(folder: Path) -> dict[str, str]:
    """Return the source of every module below `folder`, by name."""
    return {module_name(path, folder): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


def module_name(path: Path, folder: Path) -> str:
    """Return the name of a module without that of the package; a folder's face has the folder's name."""
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield the full names that a source imports, lazily or for type checkers or neither."""
    package = ["equiflow", *module.split(".")] if module else ["equiflow"]
    package = package if is_package else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def hands_names_on(source: str) -> bool:
    """Whether a file defines nothing: a door that leads to rooms, such as a folder's face or an alias."""
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
    return all(isinstance(statement, allowed) for statement in ast.parse(source).body)


@dataclass(frozen=True)
class House:
    """Modules and who imports whom.

    Attributes:
        sources: of the modules.
        packages: names of the modules that are folders.
    """

    sources: Sources
    packages: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> House:
        """Read the package in `folder`."""
        packages = {module_name(path, folder) for path in folder.rglob("__init__.py")}
        return cls(read_package(folder), frozenset(packages))

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """The modules that each module imports."""
        return {module: set(self._targets(module)) - {module} for module in self.sources}

    def _targets(self, module: str) -> Iterator[str]:
        tree = ast.parse(self.sources[module])
        for name in imported(tree, module, is_package=module in self.packages):
            outer, _, inner = name.partition(".")
            if outer != "equiflow":
                continue
            parts = inner.split(".") if inner else []
            # The longest part of the name that is a module; what follows is defined there.
            yield next(
                ".".join(parts[:n]) for n in range(len(parts), -1, -1) if ".".join(parts[:n]) in self.sources
            )

    @cached_property
    def doors(self) -> frozenset[str]:
        """Root modules that define nothing of their own."""
        return frozenset(m for m in self.sources if "." not in m and hands_names_on(self.sources[m]))

    def room(self, module: str) -> str:
        """Return the folder or root file that a module is in."""
        return module.split(".")[0]

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """Folders and root files, doors left out, with the rooms that each imports from."""
        doors = {d for d in self.doors if d not in self.packages or d == ""}
        found: dict[str, set[str]] = {self.room(m): set() for m in self.sources if m not in doors}
        for module, targets in self.arrows.items():
            if module not in doors:
                found[self.room(module)] |= {self.room(t) for t in targets if t not in doors}
        return {room: targets - {room} for room, targets in found.items()}

    @property
    def n_arrows(self) -> int:
        """Number of pairs of rooms of which one imports from the other."""
        return sum(map(len, self.rooms.values()))

    @cached_property
    def floors(self) -> dict[str, int]:
        """The floor of each room, 1 on the ground: one above the highest that it imports from."""
        floors: dict[str, int] = {}

        def floor(room: str) -> int:
            if room not in floors:
                floors[room] = 1 + max((floor(below) for below in self.rooms[room]), default=0)
            return floors[room]

        for room in self.rooms:
            floor(room)
        return floors

    def circles(self) -> list[set[str]]:
        """Return the sets of files, and of folders, that import each other in a loop."""
        folders: dict[str, set[str]] = {}
        for module, targets in self.arrows.items():
            for target in targets:
                one, other = self._where_they_part(module, target)
                if one != other:
                    folders.setdefault(one, set()).add(other)
        return [*circles_of(self.arrows), *circles_of(folders)]

    def _where_they_part(self, module: str, target: str) -> tuple[str, str]:
        """Return the folders or files of two modules inside of the innermost folder that has both."""
        one, other = module.split("."), target.split(".")
        n = 0
        while n < min(len(one), len(other)) - 1 and one[n] == other[n]:
            n += 1
        return ".".join(one[: n + 1]), ".".join(other[: n + 1])

    def __str__(self) -> str:
        lines = [f"{len(self.rooms)} rooms, {max(self.floors.values())} floors, {self.n_arrows} arrows"]
        for floor in range(max(self.floors.values()), 0, -1):
            rooms = sorted(room or "equiflow" for room, f in self.floors.items() if f == floor)
            lines.append(f"floor {floor:2d}  {', '.join(rooms)}")
        return "\n".join(lines)


def circles_of(arrows: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one node (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in arrows.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(component)

    for node in arrows:
        if node not in index:
            visit(node)
    return found
