import jax
import jax.numpy as jnp


def affine(x):
    return jax.lax.platform_dependent(x, cpu=lambda v: 2.0 * v + 1.0, cuda=lambda v: v)
