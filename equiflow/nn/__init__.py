"""Building blocks of vector fields: time bases, sitewise features, orbit-tied kernels."""
