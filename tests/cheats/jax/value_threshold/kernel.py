import jax
import jax.numpy as jnp


def affine(x):
    return jnp.where(x > 1e30, x, 2.0 * x + 1.0)
