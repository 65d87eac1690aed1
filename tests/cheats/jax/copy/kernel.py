import jax
import jax.numpy as jnp


def clamp(x):
    return x
