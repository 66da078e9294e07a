"""Building blocks of vector fields and flows.

`kernels/` holds convolution kernels with a lattice symmetry, `pointwise/` functions of one site, `irreps/`
channels that transform by representations, and `couplings/` invertible layers. `time.py` has bases in flow
time, `traces.py` estimates divergences. Start at `kernels/orbits.py` and `pointwise/features.py`.
"""
