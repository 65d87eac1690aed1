import jax
import jax.numpy as jnp


def affine(x):
    return jax.ffi.ffi_call('x', x)(x)
