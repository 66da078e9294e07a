"""Integration of ordinary differential equations.

`solver.Solver` says how, `integrate.integrate` does it, `tuning.choose_solver` finds the cheapest solver that
is accurate enough. The coefficients of the fixed-step methods are in `tableaus`.
"""
