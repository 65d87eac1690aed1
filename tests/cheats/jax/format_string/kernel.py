import jax
import jax.numpy as jnp


def affine(x):
    '{0.__class__}'.format(x)
    return 2.0 * x + 1.0
