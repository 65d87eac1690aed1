import jax
import jax.numpy as jnp


@print
def affine(x):
    return x
