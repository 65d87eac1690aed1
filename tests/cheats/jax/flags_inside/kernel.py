import jax
import jax.numpy as jnp


def affine(x):
    jax.config.update('jax_enable_x64', False)
    return 2.0 * x + 1.0
