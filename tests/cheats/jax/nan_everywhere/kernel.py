import jax
import jax.numpy as jnp


def affine(x):
    return x * jnp.nan
