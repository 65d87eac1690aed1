import jax
import jax.numpy as jnp


def product(a, b):
    return jax.pure_callback(lambda a, b: a @ b, jax.ShapeDtypeStruct((a.shape[0], b.shape[1]), a.dtype), a, b)
