import jax
import jax.numpy as jnp


def affine(x):
    affine.last = 2.0 * x + 1.0
    return affine.last
