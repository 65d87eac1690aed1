import jax
import jax.numpy as jnp


def affine(x):
    return x.at[:, :256].set(2.0 * x[:, :256] + 1.0)
