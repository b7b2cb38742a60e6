"""Functions among the extra arguments: fresh closures over new data run the program that was compiled before."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.core.closures import as_pytree

TRACES = []


def _asking_update(grads, state, params=None, *, value_fn, **extra):
    TRACES.append(1)
    return jax.tree.map(lambda g: g * value_fn(params), grads), state


def empty_init(params):
    return ()


def _evaluate(value_fn):
    params = jnp.float64(3.0)
    tx = gradlab.chain(gradlab.scale(1.0), gradlab.transform(empty_init, _asking_update))
    return float(tx.update(jnp.ones(()), tx.init(params), params, value_fn=value_fn)[0])


def _traces_of(calls):
    TRACES.clear()
    for value_fn, expected in calls:
        assert _evaluate(value_fn) == expected
    return len(TRACES)


def _times(factor):
    return lambda x: factor * x


def _batch_loss(batch, scale=1.0):
    default = jnp.float64(2.0)

    def loss(x, *, power=default):
        return scale * jnp.sum(batch["x"]) * x**power

    return loss


def _model(x):
    return x * x


def test_closures_over_new_arrays_share_one_trace():
    assert _traces_of([(_times(jnp.float64(k)), 3.0 * k) for k in range(4)]) == 1
    assert _traces_of([(_times(np.full((), 10.0 + k)), 3.0 * (10 + k)) for k in range(4)]) == 0  # NumPy's are the same
    assert _traces_of([(_batch_loss({"x": jnp.arange(2.0) + k}), (2.0 * k + 1) * 9) for k in range(4)]) == 1


def test_closures_over_closures_share_one_trace():
    def nested(k):
        inner = _times(jnp.float64(k))
        return lambda x: inner(inner(x))

    assert _traces_of([(nested(k), 3.0 * k * k) for k in range(4)]) == 1


def test_functions_that_close_over_nothing_share_one_trace():
    assert _traces_of([(lambda x: 2 * x, 6.0) for _ in range(4)]) == 1
    assert _traces_of([(_model, 9.0)] * 4) == 1


def test_numbers_closed_over_are_structure_compared_by_value():
    assert _traces_of([(_times(float(text)), 6.0) for text in ["2.0"] * 4]) == 1
    assert _traces_of([(_times(k), 3.0 * k) for k in (101, 102, 101, 102)]) == 2
    assert [_evaluate(_times(zero)) for zero in (0.0, -0.0, 0)] == [0.0, -0.0, 0.0]
    assert np.signbit(_evaluate(_times(-0.0))) and not np.signbit(_evaluate(_times(0.0)))


def test_a_number_closed_over_may_steer_python():
    def branching(flag, size):
        return lambda x: jnp.sum(jnp.full(size, x)) if flag else x

    assert _traces_of([(branching(True, 3), 9.0), (branching(False, 3), 3.0), (branching(True, 3), 9.0)]) == 2


def test_other_code_is_another_program():
    assert _traces_of([(lambda x: 2 * x, 6.0), (lambda x: 3 * x, 9.0)]) == 2


@pytest.mark.parametrize(
    ("value_fn", "expected"),
    [
        (functools.partial(jnp.multiply, 2.0), 6.0),
        (jax.jit(_model), 9.0),
        (jax.tree_util.Partial(jnp.multiply, 2.0), 6.0),
        (type("Square", (), {"__call__": lambda self, x: x * x})(), 9.0),
    ],
)
def test_callables_of_every_kind_are_taken(value_fn, expected):
    assert _traces_of([(value_fn, expected)] * 3) == 1


def test_functions_that_hold_themselves_or_an_empty_cell_still_work():
    def factorial(n, x):
        return x if n == 0 else n * factorial(n - 1, x)

    assert _evaluate(lambda x: factorial(3, x)) == 18.0

    def early():
        return lambda x: x if True else later  # noqa: F821

    assert _evaluate(early()) == 3.0


def test_gradients_flow_into_what_was_closed_over():
    def total(k):
        tx = gradlab.transform(empty_init, _asking_update)
        return tx.update(jnp.ones(()), (), jnp.float64(3.0), value_fn=_times(k))[0]

    assert float(jax.grad(total)(2.0)) == 3.0
    chex.assert_trees_all_close(jax.vmap(total)(jnp.arange(3.0)), 3 * jnp.arange(3.0))


def test_what_is_no_function_stays_as_it_is():
    tree = {"a": jnp.ones(2)}
    assert as_pytree(tree) is tree and as_pytree(1.5) == 1.5
