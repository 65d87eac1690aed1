import jax
import jax.numpy as jnp


def affine(x):
    y = 2.0 * x + 1.0
    x.ctypes
    return y
