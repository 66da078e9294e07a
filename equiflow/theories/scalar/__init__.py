"""Scalar fields on a lattice: phi^4, external fields, Gaussian priors, observables, published set-ups."""
