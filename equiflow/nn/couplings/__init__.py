"""Invertible layers with a known Jacobian, and the networks that choose their parameters.

Start at `checkerboard.py` (layers of `CouplingFlow`), `phase_space.py` (layers of `SymplecticFlow` and
`AugmentedFlow`) or `canonical.py` (layers of `CanonicalFlow`). A new map of one site is a subclass of `SiteMap` in `site_maps.py`.
"""
