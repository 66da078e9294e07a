"""Convolution kernels tied on orbits of a group, and the ways to apply them."""
