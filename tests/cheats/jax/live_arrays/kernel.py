import jax
import jax.numpy as jnp


def affine(x):
    jax.live_arrays()
    return 2.0 * x + 1.0
