"""Convolution kernels that are tied on the orbits of a group, and the ways to apply them.

Start at `orbits.py` for the kernels and at `convolution.py` for how they act on fields. `stencil.py` mixes
several channels by kernels of small support.
"""
