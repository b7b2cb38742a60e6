"""K-FAC: its factors against gradients of single examples, its step against NumPy and where it is Newton's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab import Factors, dense_factors, kfac

DENSE = functools.partial(nn.Dense, param_dtype=jnp.float64)
X = jax.random.normal(jax.random.key(0), (12, 3))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return DENSE(2, name="last")(jnp.tanh(DENSE(5, name="first")(x)))


NET = Net()
PARAMS = NET.init(jax.random.key(1), X)["params"]
TARGETS = jax.random.normal(jax.random.key(2), (12, 2))


def squares(outputs):
    return 0.5 * jnp.sum((outputs - TARGETS) ** 2, axis=1)


def test_factors_are_those_of_single_examples():
    """A kernel's gradient for one example is a g^T: its row lengths tell a, its column lengths g."""
    found = dense_factors(NET, PARAMS, X, squares)
    loss_of_one = lambda params, x, t: 0.5 * jnp.sum((NET.apply({"params": params}, x[None])[0] - t) ** 2)
    singles = jax.vmap(jax.grad(loss_of_one), (None, 0, 0))(PARAMS, X, TARGETS)
    inputs = {"first": X, "last": jnp.tanh(X @ PARAMS["first"]["kernel"] + PARAMS["first"]["bias"])}
    for name, a in inputs.items():
        g = singles[name]["bias"]  # the derivative by a bias is g itself
        np.testing.assert_allclose(singles[name]["kernel"], a[:, :, None] * g[:, None, :], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found[name]["kernel"].inputs, a.T @ a / 12, rtol=1e-10)
        np.testing.assert_allclose(found[name]["kernel"].outputs, g.T @ g / 12, rtol=1e-10, atol=1e-14)


def test_positions_count_like_examples():
    x = jax.random.normal(jax.random.key(3), (4, 6, 3))
    model = DENSE(2)
    params = model.init(jax.random.key(0), x)["params"]
    losses = lambda y: jnp.sum(y**2, axis=(1, 2))
    found = dense_factors(model, params, x, losses)["kernel"]
    flat = dense_factors(model, params, x.reshape(24, 3), lambda y: jnp.sum(y**2, axis=1))["kernel"]
    for ours, theirs in zip(found, flat, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_one_step_solves_least_squares():
    """The Fisher matrix of Gaussian outputs has B = I: with targets drawn from the model K-FAC is Newton's method."""
    model, w = DENSE(2, use_bias=False), jax.random.normal(jax.random.key(4), (3, 2))
    params = {"kernel": jnp.zeros((3, 2))}
    loss = lambda params: jnp.mean(0.5 * jnp.sum((model.apply({"params": params}, X) - X @ w) ** 2, axis=1))
    inputs = dense_factors(model, params, X, lambda y: jnp.sum(y, axis=1))["kernel"].inputs
    tx = kfac(1.0, damping=0.0)
    factors = {"kernel": Factors(inputs, jnp.eye(2))}
    updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, kfac_factors=factors)
    np.testing.assert_allclose(updates["kernel"], w, rtol=1e-9)


def by_hand(grads, factors, p, rate, beta, damping, every):
    m, n = p.shape
    left, right, path = np.zeros((m, m)), np.zeros((n, n)), []
    for t, (g, (a, b)) in enumerate(zip(grads, factors, strict=True), 1):
        weight = min(beta, 1 - 1 / t)
        left, right = weight * left + (1 - weight) * a, weight * right + (1 - weight) * b
        if (t - 1) % every == 0:
            pi = np.sqrt((np.trace(left) / m) / (np.trace(right) / n))
            inverses = [
                np.linalg.inv(side + factor * np.sqrt(damping) * np.eye(len(side)))
                for side, factor in ((left, pi), (right, 1 / pi))
            ]
        p = p - rate * inverses[0] @ g @ inverses[1]
        path.append(p)
    return path


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 3), (1, 5)])
@pytest.mark.parametrize(("beta", "damping", "every"), [(0.95, 1e-2, 1), (0.5, 0.3, 3), (1.0, 1e-2, 2)])
def test_kfac_is_the_loop_in_numpy(shape, beta, damping, every):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(8, *shape))
    factors = []
    for _ in grads:
        a, b = (rng.normal(size=(size, 2 * size)) for size in shape)
        factors.append((a @ a.T, b @ b.T))
    p = rng.normal(size=shape)
    tx = kfac(0.1, beta, damping, inverse_frequency=every)
    state, ours = tx.init(jnp.asarray(p)), jnp.asarray(p)
    expected = by_hand(grads, factors, p, 0.1, beta, damping, every)
    for g, (a, b), there in zip(grads, factors, expected, strict=True):
        updates, state = tx.update(jnp.asarray(g), state, ours, kfac_factors=Factors(jnp.asarray(a), jnp.asarray(b)))
        ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours, there, rtol=1e-9)


def test_a_network_learns_with_labels_of_its_own():
    """Every kernel of a classifier, in one jitted step; the last layer too, which the default leaves to AdamW."""
    labels = jnp.argmax(X @ jax.random.normal(jax.random.key(5), (3, 2)), axis=1)
    layout = gradlab.matrices_by_path({"kernel": gradlab.MuonDimensionNumbers()}, otherwise=None)
    tx = kfac(0.3, damping=1e-2, adam_learning_rate=0.03, weight_dimension_numbers=layout)
    loss = lambda params: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(NET.apply({"params": params}, X), labels)
    )

    @jax.jit
    def step(params, state, key):
        drawn = jax.random.categorical(key, NET.apply({"params": params}, X))
        factors = dense_factors(NET, params, X, lambda y: optax.softmax_cross_entropy_with_integer_labels(y, drawn))
        updates, state = tx.update(jax.grad(loss)(params), state, params, kfac_factors=factors)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for index in range(40):
        params, state = step(params, state, jax.random.key(index))
    assert loss(params) < 0.1 * loss(PARAMS)


def test_bad_calls_are_refused():
    tx, params = kfac(0.1), {"w": jnp.ones((2, 3))}
    good = Factors(jnp.eye(2), jnp.eye(3))
    state = tx.init(params)
    with pytest.raises(TypeError, match="kfac_factors=dense_factors"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="nothing for parameter 'w'"):
        tx.update(params, state, params, kfac_factors={"v": good})
    with pytest.raises(ValueError, match=r"'w' must have shapes \(\(2, 2\), \(3, 3\)\)"):
        tx.update(params, state, params, kfac_factors={"w": Factors(*good[::-1])})
    with pytest.raises(ValueError, match="inverse_frequency"):
        kfac(0.1, inverse_frequency=0)

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(3)
            return dense(dense(x))

    twice = Twice()
    with pytest.raises(ValueError, match="'Dense_0' is called twice"):
        dense_factors(twice, twice.init(jax.random.key(0), X)["params"], X, lambda y: y[:, 0])
    with pytest.raises(ValueError, match="LayerNorm has no dense layer"):
        dense_factors(nn.LayerNorm(), nn.LayerNorm().init(jax.random.key(0), X)["params"], X, lambda y: y[:, 0])
