"""Angles on a lattice: the XY model."""
