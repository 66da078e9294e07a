"""Integration of ordinary differential equations: which solver, and how it is driven."""
