"""Identical particles in a trap: the Coulomb gas."""
