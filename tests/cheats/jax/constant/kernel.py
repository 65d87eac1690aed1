import jax
import jax.numpy as jnp


def affine(x):
    return jnp.ones_like(x)
