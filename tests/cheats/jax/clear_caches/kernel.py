import jax
import jax.numpy as jnp


def affine(x):
    jax.clear_caches()
    return 2.0 * x + 1.0
