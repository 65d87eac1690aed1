"""Pallas: block programs as JAX kernels over blocks of arrays. Printed, traced and read back,
interpreted on the CPU."""
