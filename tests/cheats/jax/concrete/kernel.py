import jax
import jax.numpy as jnp


def affine(x):
    if float(jnp.max(x)) > 100.0:
        return x
    return 2.0 * x + 1.0
