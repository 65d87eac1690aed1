import jax
import jax.numpy as jnp


def product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
