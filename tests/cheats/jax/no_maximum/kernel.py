import jax
import jax.numpy as jnp


def soft(x):
    e = jnp.exp(x)
    return e / jnp.sum(e, axis=1, keepdims=True)
