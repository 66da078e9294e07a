"""Functions of the field at one site, with their slopes."""
