"""Spin-polarised fermions in a harmonic trap: Hamiltonian, Slater determinants, observables."""
