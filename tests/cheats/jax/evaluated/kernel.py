import jax
import jax.numpy as jnp


def affine(x):
    return eval('2.0 * x + 1.0')
