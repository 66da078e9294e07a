"""Reports of the harness: `Check` is the result of one law, `CheckReport` prints all of them as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one law in one case.

    Attributes:
        law: the law.
        case: the group element or quantity that was tested; empty for a law with a single case.
        error: size of the violation; NaN counts as a violation.
        tolerance: largest size that passes.
        remedy: where to look if it fails.
    """

    law: str
    case: str
    error: float
    tolerance: float
    remedy: str

    @property
    def ok(self) -> bool:
        """Whether the law holds to its tolerance."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok  " if self.ok else "FAIL"
        return f"{verdict}  {self.law:34s} {self.error:8.1e}  (<= {self.tolerance:.0e})  {self.case}"


@dataclass(frozen=True)
class CheckReport:
    """The results of `check_vector_field`, `check_flow` or `check_action`; `print` shows them as a table.

    Attributes:
        subject: the class that was tested, and its lattice.
        checks: results in the order of the tests.
        notes: what was not tested, and why.
    """

    subject: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every law holds."""
        return not self.violations

    @property
    def violations(self) -> tuple[Check, ...]:
        """The results that exceed their tolerance."""
        return tuple(check for check in self.checks if not check.ok)

    def __str__(self) -> str:
        verdict = f"{len(self.violations)} violations" if self.violations else "all laws hold"
        remedies = dict.fromkeys(check.remedy for check in self.violations)
        return "\n".join(
            [
                f"{self.subject}: {verdict}",
                *map(str, self.checks),
                *(f"-> {hint}" for hint in remedies),
                *(f"note: {note}" for note in self.notes),
            ]
        )


def checks_by_kind(law: str, errors: dict[str, float], tolerance: float, remedy: str) -> list[Check]:
    """Return a check of every violated element, and of the worst one of each kind that has none.

    The first word of a name is its kind, such as translation or rotation. The remedy begins with the kinds
    that are violated.

    Args:
        law: the law.
        errors: name of the element -> size of the violation.
        tolerance: largest size that passes.
        remedy: where to look if it fails.

    Returns:
        The checks, kind by kind.
    """
    kinds: dict[str, list[tuple[str, float]]] = {}
    for name, error in errors.items():
        kinds.setdefault(name.split()[0], []).append((name, error))
    hint = f"{law}: {_which(kinds, tolerance)}. {remedy}"
    checks = []
    for cases in kinds.values():
        broken = [case for case in cases if not case[1] <= tolerance]
        shown = broken or [max(cases, key=lambda case: case[1])]
        checks += [Check(law, name, error, tolerance, hint) for name, error in shown]
    return checks


def _which(kinds: dict[str, list[tuple[str, float]]], tolerance: float) -> str:
    """Return which kinds of elements are violated and which hold, as text."""
    # A random element is a product of generators, so it tells nothing about the kinds.
    named = {kind: cases for kind, cases in kinds.items() if kind != "random"}
    broken = [kind for kind, cases in named.items() if not all(error <= tolerance for _, error in cases)]
    kept = [kind for kind in named if kind not in broken]
    if not broken:
        return "violated by random elements of the group only, not by its generators"
    if not kept:
        return f"violated by all: {', '.join(broken)}"
    return f"violated by only {', '.join(broken)}; obeyed by {', '.join(kept)}"
