"""Channels that transform by representations: escnn in two dimensions, e3nn in three."""
