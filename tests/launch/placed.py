"""Whole arrays, alike in each process, onto a mesh of all of them."""

from typing import Any

import jax
import numpy as np


def placed(tree: Any, where: Any) -> Any:
    """The tree with each leaf as its sharding says."""

    def place(x: Any, sharding: Any) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x)[index])

    return jax.tree.map(place, tree, where)
