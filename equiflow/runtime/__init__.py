"""Plumbing without physics: memory, precision, random numbers, files, processes."""
