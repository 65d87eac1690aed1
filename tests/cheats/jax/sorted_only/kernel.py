import jax
import jax.numpy as jnp


def pick(x):
    return jnp.where(x[:, 0] < x[:, -1], x.shape[1] - 1, 0).astype(jnp.int64)
