"""Symmetry-equivariant continuous normalizing flows for lattice field theory."""
