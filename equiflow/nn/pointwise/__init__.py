"""Functions of the field at one site, with their derivatives or traces in closed form.

Start at `SineFeatures` in `features.py` for functions of one number, and at `Pointwise` in `base.py` for
functions that mix the channels of a site.
"""
