import jax
import jax.numpy as jnp


def normal(x):
    return x / jnp.sqrt(jnp.mean(x * x, axis=1, keepdims=True))
