import time
import jax
import jax.numpy as jnp


def affine(x):
    time.sleep(0.001)
    return 2.0 * x + 1.0
