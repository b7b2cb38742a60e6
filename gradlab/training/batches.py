"""Minibatches drawn on the device, inside of the compiled run.

How examples are drawn (``sampling``):

* ``'epoch'``: shuffled anew each epoch and read in that order, without replacement; the examples that do not fill a
  last batch sit the epoch out.
* ``'once'``: shuffled once, then read in that order in every epoch.
* ``'ordered'``: never shuffled (to see what unshuffled data does).
* ``'replacement'``: each batch independent, with replacement.
* ``'full'``: all examples in every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check

SAMPLINGS = ("epoch", "once", "ordered", "replacement", "full")


class Feed(NamedTuple):
    """Where the reading of the data stands."""

    key: jax.Array  # the key of all orders
    order: jax.Array  # (examples,) int32: the order of the present epoch


def num_examples(data: Any) -> int:
    leaves = jax.tree.leaves(data)
    return leaves[0].shape[0] if leaves else 0


def check_batches(data: Any, batch_size: int | None, sampling: str, accumulate: int) -> tuple[int | None, str]:
    """Resolves ``batch_size`` and ``sampling`` against the data; returns both as `draw` takes them.

    Raises:
      ValueError: a batch larger than the data set, a batch that micro-batches do not divide, an unknown sampling.
    """
    check.one_of("sampling", sampling, SAMPLINGS)
    examples = num_examples(data)
    check.in_range("accumulate", accumulate, 1)
    if not examples or batch_size is None or sampling == "full":
        if batch_size is not None and not examples:
            raise ValueError(f"batch_size={batch_size}, but the task has no training data; leave batch_size out")
        batch_size, sampling = examples or None, "full"
    check.in_range("batch_size", batch_size if batch_size is not None else 1, 1)
    if examples and batch_size > examples:
        raise ValueError(f"batch_size={batch_size} is larger than the data set of {examples} examples")
    if accumulate > 1 and (not examples or batch_size % accumulate):
        raise ValueError(f"a batch of {batch_size} examples does not divide into accumulate={accumulate} micro-batches")
    return batch_size, sampling


def make_feed(data: Any, key: jax.Array) -> Feed:
    return Feed(key, jnp.arange(num_examples(data), dtype=jnp.int32))


def draw(feed: Feed, data: Any, step: jax.Array, *, batch_size: int | None, sampling: str) -> tuple[Feed, Any]:
    """The batch of a step: a tree like ``data`` of ``batch_size`` examples, and the feed after it.

    ``step`` must be the same in all lanes: the shuffle at the start of an epoch is a branch on it.
    """
    if sampling == "full":
        return feed, data
    examples = num_examples(data)
    if sampling == "replacement":
        index = jax.random.randint(jax.random.fold_in(feed.key, step), (batch_size,), 0, examples)
        return feed, jax.tree.map(lambda x: x[index], data)
    per_epoch = examples // batch_size
    position, epoch = step % per_epoch, step // per_epoch
    shuffled = {"epoch": position == 0, "once": step == 0, "ordered": False}[sampling]
    order = feed.order
    if shuffled is not False:
        shuffle = lambda order: jax.random.permutation(jax.random.fold_in(feed.key, epoch), order.shape[0]).astype(
            order.dtype
        )
        order = jax.lax.cond(shuffled, shuffle, lambda order: order, order)
    index = jax.lax.dynamic_slice(order, [position * batch_size], [batch_size])
    return Feed(feed.key, order), jax.tree.map(lambda x: x[index], data)
