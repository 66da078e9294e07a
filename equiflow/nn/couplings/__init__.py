"""Invertible layers with a known Jacobian, and the networks that drive them."""
