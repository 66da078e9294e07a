"""`Estimate`: a value with its errors, which prints as `mean ± error`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Estimate:
    """A value with its one-sigma statistical error.

    Attributes:
        mean: the value.
        error: its standard error.
        tau_int: integrated autocorrelation time of the series behind it, in units of its steps
            (0.5 for independent samples); None if it does not come from a series.
        systematic: size of the discretisation error of the flow behind it, see `Certificate.error_of`;
            infinite if the solve has not converged.
        tau_int_error: standard error of `tau_int`.
        note: what to know before trusting it, in a few words that are printed behind it, such as "only 12
            tau_int long"; empty if there is nothing. Several are separated by semicolons.

    >>> print(Estimate(0.21053, 0.00009))
    0.210530 ± 0.000090
    """

    mean: float
    error: float
    tau_int: float | None = None
    systematic: float = 0.0
    tau_int_error: float | None = None
    note: str = field(default="", repr=False, compare=False)

    @property
    def total_error(self) -> float:
        """Statistical and discretisation error, added in quadrature."""
        return math.hypot(self.error, self.systematic)

    def __str__(self) -> str:
        # A systematic error below a hundredth of the statistical one changes no digit that is shown.
        shown = self.systematic > 0.01 * self.error
        unbounded = self.systematic == math.inf
        solver = " (solver not converged)" if unbounded else f" ± {self.systematic:.1g} (solver)"
        return self._with_error() + (solver if shown else "") + (f" ({self.note})" if self.note else "")

    def _with_error(self) -> str:
        """Return `mean ± statistical error`."""
        if not (math.isfinite(self.error) and self.error > 0):
            return f"{self.mean:.6g} ± {self.error:.2g}"
        # Two significant digits of the error, and as many decimals of the mean.
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        if digits > 8 and abs(self.mean) < 1e-6:  # twenty zeros say less than a power of ten
            return f"{self.mean:.1e} ± {self.error:.1e}"
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f}"

    def sigmas_from(self, other: Estimate | float) -> float:
        """Return the difference from `other` in units of the combined total error.

        Args:
            other: an independent estimate, or an exact value.

        Returns:
            `(mean - other) / error`; infinite for a difference without an error, 0 for none.

        Raises:
            TypeError: if `other` is neither an estimate nor a number.
        """
        value, error = (other.mean, other.total_error) if isinstance(other, Estimate) else (other, 0.0)
        try:
            value = float(value + 0.0)  # no text
        except (TypeError, ValueError) as wrong:
            raise TypeError(f"other must be an Estimate or a number, got {other!r}.") from wrong
        difference, combined = self.mean - value, math.hypot(self.total_error, error)
        if combined == 0.0:
            return 0.0 if difference == 0.0 else math.copysign(math.inf, difference)
        return difference / combined


def noted(estimate: Estimate, *notes: str) -> Estimate:
    """Return an estimate with more notes behind its own.

    Args:
        estimate: value with its error.
        notes: see `Estimate.note`; empty ones, and those that it has already, are left out.

    Returns:
        The estimate with all notes, separated by semicolons.

    >>> print(noted(Estimate(0.5, 0.1, note="only 3 tau_int long"), "unadjusted"))
    0.50 ± 0.10 (only 3 tau_int long; unadjusted)
    """
    own = [estimate.note] if estimate.note else []
    own += [note for note in dict.fromkeys(notes) if note and note not in estimate.note]
    return replace(estimate, note="; ".join(own))
