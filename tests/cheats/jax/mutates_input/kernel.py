import jax
import jax.numpy as jnp


def affine(x):
    x[0] = 0.0
    return 2.0 * x + 1.0
