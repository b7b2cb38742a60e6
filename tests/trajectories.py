"""Runs an optimizer over given gradients on a mixed tree, and lays the parameters of every step in rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core.transform import from_optax

STEPS = 50
SHAPES = {"dense": {"kernel": (3, 4), "bias": (4,)}, "layers": [(4,), ()]}


def mixed_tree(seed=0, dtype=np.float64, steps=None):
    """Normal numbers in a tree of mixed shapes; with ``steps``, in that many rows of spread-out magnitudes."""
    rng = np.random.default_rng(seed)
    rows = () if steps is None else (steps,)

    def leaf(shape):
        values = rng.normal(size=rows + shape)
        if np.issubdtype(dtype, np.complexfloating):
            values = values + 1j * rng.normal(size=rows + shape)
        if steps is not None:
            values = values * 10 ** rng.uniform(-3, 1, size=rows + shape)
        return jnp.asarray(values, dtype)

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def mixed_grads(seed=1, dtype=np.float64, steps=STEPS):
    """The gradients of ``steps`` steps for `mixed_tree`, stacked along the first axis of every leaf."""
    return mixed_tree(seed, dtype, steps)


def flat(tree, rows=None):
    """A tree as one NumPy vector; a stacked tree as a matrix with ``rows`` rows."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    shape = (-1,) if rows is None else (rows, -1)
    return np.concatenate([leaf.reshape(shape) for leaf in leaves], axis=-1)


def run(tx, params, grads, values=None):
    """The parameters after every step, one row a step, and the last state; ``values`` are the losses, if it reads them.

    The optimizer is an argument of the compiled loop: modes that differ in numbers alone share one compilation.
    """
    positions, state = _run(from_optax(tx), params, grads, values)
    return flat(positions, rows=jax.tree.leaves(grads)[0].shape[0]), state


@jax.jit
def _run(tx, params, grads, values):
    def step(carry, row):
        (params, state), (g, value) = carry, row
        updates, state = tx.update(g, state, params, **({} if value is None else {"value": value}))
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), positions = jax.lax.scan(step, (params, tx.init(params)), (grads, values))
    return positions, state


def run_torch(make, params, grads):
    """As `run`, for the PyTorch optimizer ``make(tensors)``; the positions alone."""
    import torch

    leaves, rows = jax.tree.leaves(params), [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]
    tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]
    optimizer, positions = make(tensors), []
    for step in range(rows[0].shape[0]):
        for tensor, row in zip(tensors, rows, strict=True):
            tensor.grad = torch.tensor(row[step])
        optimizer.step()
        positions.append(np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors]))
    return np.stack(positions)
