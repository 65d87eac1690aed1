import threading
import jax
import jax.numpy as jnp


def affine(x):
    threading.Thread(target=print).start()
    return 2.0 * x + 1.0
