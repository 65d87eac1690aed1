import inspect
import jax
import jax.numpy as jnp


def affine(x):
    inspect.stack()
    return 2.0 * x + 1.0
