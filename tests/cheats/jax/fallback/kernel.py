import jax
import jax.numpy as jnp


def affine(x):
    try:
        return 2.0 * x + 1.0
    except Exception:
        return x
