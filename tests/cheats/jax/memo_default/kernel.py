import jax
import jax.numpy as jnp


def affine(x, seen=[]):
    seen.append(x)
    return 2.0 * seen[0] + 1.0
