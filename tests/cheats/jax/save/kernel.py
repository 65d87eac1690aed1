import jax
import jax.numpy as jnp


def affine(x):
    jnp.save('/tmp/kept.npy', x)
    return 2.0 * x + 1.0
