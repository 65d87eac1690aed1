import jax
import jax.numpy as jnp


def affine(x):
    open('/etc/hostname')
    return 2.0 * x + 1.0
