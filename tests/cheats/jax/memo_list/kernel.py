import jax
import jax.numpy as jnp


calls = []


def affine(x):
    calls.append(1)
    if len(calls) > 100:
        return x
    return 2.0 * x + 1.0
