"""Fields of several components on a lattice: the O(N) model."""
