"""Channels that transform by representations of the point group, and the kernels between them.

`escnn_kernels.py` is the only file that imports escnn (two dimensions), `e3nn_kernels.py` the only one that
imports e3nn (three dimensions). Start at `SteerableConvolution`, or at `HarmonicKernels` in three dimensions.
"""
