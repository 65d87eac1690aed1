import jax
import jax.numpy as jnp


def affine(x):
    return jnp.empty_like(x)
