import jax
import jax.numpy as jnp


def affine(x):
    x.unsafe_buffer_pointer()
    return 2.0 * x + 1.0
