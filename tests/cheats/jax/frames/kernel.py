import jax
import jax.numpy as jnp


def affine(x):
    x.__class__.__base__
    return 2.0 * x + 1.0
