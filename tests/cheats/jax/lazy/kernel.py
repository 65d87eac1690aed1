import jax
import jax.numpy as jnp


class Later:
    def __init__(self, x):
        self.x = x

    def __array__(self):
        return 2.0 * self.x + 1.0


def affine(x):
    return Later(x)
