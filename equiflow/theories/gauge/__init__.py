"""Lattice gauge theory: links in U(1) or SU(N), with local symmetry."""
