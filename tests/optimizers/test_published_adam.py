"""Published counter-examples and laws of adaptive methods, rerun with gradlab's optimizers: a scan over lanes each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import betaln

import gradlab
from gradlab.optimizers.radam import effective_length


@jax.jit
def boxed(tx, grads):
    """Where a parameter in [-1, 1] ends that starts at 0, meets these gradients and is clipped after every step."""

    def step(carry, g):
        x, state = carry
        update, state = tx.update(g, state, x)
        return (jnp.clip(x + update, -1.0, 1.0), state), None

    start = jnp.zeros([], grads.dtype)
    return jax.lax.scan(step, (start, tx.init(start)), grads)[0][0]


def test_adam_converges_to_the_worst_point_and_amsgrad_to_the_best():
    """1904.09237, theorem 1: C x every third step and -x else, C = 3; the sum falls towards x = -1."""
    grads = jnp.where(jnp.arange(20_000) % 3 == 0, 3.0, -1.0)
    rate = 0.1 * gradlab.as_schedule(lambda count: (count + 1.0) ** -0.5)
    assert boxed(gradlab.adam(rate, b1=0.0, b2=0.1), grads) > 0.99
    assert boxed(gradlab.amsgrad(rate, b1=0.0, b2=0.1), grads) < -0.99
    as_published = gradlab.amsgrad(rate, b1=0.0, b2=0.1, bias_correction_mu=False, bias_correction_nu=False)
    assert boxed(as_published, grads) < -0.99


def rare_large_gradients(make, k, b2s, steps=40_000, seeds=16):
    """The toy of 2411.02853: g = k^2 with probability 1/k, else -k, so that E[g] = 1; the mean end over the seeds."""
    large = jax.random.bernoulli(jax.random.key(0), 1 / k, (seeds, steps))
    grads = jnp.where(large, float(k**2), -float(k))
    rate = 0.01 * gradlab.as_schedule(lambda count: (1 + 0.01 * count) ** -0.5)
    lanes = gradlab.population(lambda b2: make(rate, b1=0.9, b2=b2), b2=np.array(b2s))
    ends = jax.vmap(jax.vmap(boxed, in_axes=(None, 0)), in_axes=(0, None))(lanes, grads)
    return np.mean(ends, axis=1)


UNCLIPPED = functools.partial(gradlab.adopt, use_clipping=False)


def test_adopt_finds_the_minimum_whatever_b2_and_adam_does_not():
    b2s = [0.1, 0.9, 0.99]
    adam, adopt = (rare_large_gradients(make, 10, b2s) for make in (gradlab.adam, UNCLIPPED))
    assert np.all(adam[:2] > 0.95) and adam[2] < -0.5
    assert np.all(adopt < -0.95)


def test_the_clip_of_adopt_turns_it_round_where_the_gradients_are_rarer():
    clipped, unclipped = (rare_large_gradients(make, 50, [0.1, 0.9]) for make in (gradlab.adopt, UNCLIPPED))
    assert np.all(clipped > 0.95)
    assert np.all(unclipped < 0.0)


def variance_of_the_adaptive_rate(rho):
    """Var[psi] of 1908.03265 for psi^2 ~ scaled inverse chi^2 with rho degrees of freedom, rho > 2."""
    beta = np.exp((2 * rho - 5) * np.log(2) + 2 * betaln((rho - 1) / 2, (rho - 1) / 2))
    return rho / (rho - 2) - rho * beta / np.pi


def test_radam_knows_the_variance_of_the_adaptive_rate():
    """1908.03265, section 5.3, on Adam's own buffer: infinite at first, then that of a simple average of length rho."""
    draws, steps, b2 = 100_000, 100, 0.999
    tx = gradlab.scale_by_adam(b2=b2)

    def step(state, key):
        _, state = tx.update(jax.random.normal(key, (draws,)), state)
        psi = jnp.sqrt((1 - b2**state.count) / state.nu)
        return state, jnp.var(psi)

    keys = jax.random.split(jax.random.key(0), steps)
    _, variances = jax.lax.scan(step, tx.init(jnp.zeros(draws)), keys)
    counts = np.array([5, 6, 8, 10, 20, 50, 100])
    seen = np.asarray(variances)[counts - 1]
    rho = np.array([float(effective_length(count, b2)) for count in counts])
    np.testing.assert_allclose(seen, variance_of_the_adaptive_rate(rho), rtol=0.025)
    assert variances[0] > 1000 * seen[0]

    ones = jnp.ones(1)
    state, factors = gradlab.scale_by_radam(b2=b2, eps=0.0).init(ones), []
    for _ in range(100):
        update, state = gradlab.scale_by_radam(b2=b2, eps=0.0).update(ones, state)
        factors.append(float(update[0]))
    deviations = np.sqrt(seen[1:] / variance_of_the_adaptive_rate(2 / (1 - b2) - 1))
    rectified = np.array(factors)[counts[1:] - 1] * deviations
    assert np.all(deviations > 4)
    assert np.all((rectified > 0.65) & (rectified < 1.02)) and np.all(rectified[-2:] > 0.97)


CLASSES = 100
FREQUENCIES = (1 / np.arange(1, CLASSES + 1)) / np.sum(1 / np.arange(1, CLASSES + 1))


def class_losses(tx, steps):
    """Cross-entropy of each class at each step: softmax regression on one input a class, classes weighted by 1/k."""
    losses = lambda w: -jnp.diag(jax.nn.log_softmax(w))

    def step(carry, _):
        w, state = carry
        grads = jax.grad(lambda w: FREQUENCIES @ losses(w))(w)
        updates, state = tx.update(grads, state, w)
        return (w + updates, state), losses(w)

    w = jnp.zeros((CLASSES, CLASSES))
    return np.asarray(jax.lax.scan(step, (w, tx.init(w)), None, length=steps)[1])


def test_descent_learns_a_class_in_time_inverse_to_its_frequency_and_adam_all_at_once():
    """2402.19449, section 4: the loss of class k is 1 / (learning rate * frequency * t), or independent of k."""
    steps = 4000
    descent = class_losses(gradlab.sgd(1.0), steps)
    law = 1 / (FREQUENCIES * steps)
    np.testing.assert_allclose(descent[-1, :3], law[:3], rtol=0.05)
    assert np.all(np.diff(descent[-1]) > 0)
    assert descent[-1, -1] > 200 * descent[-1, 0]
    for make in (functools.partial(gradlab.adam, eps=0.0), gradlab.sign_sgd):
        adaptive = class_losses(make(0.01), 400)
        np.testing.assert_allclose(adaptive, np.broadcast_to(adaptive[:, :1], adaptive.shape), rtol=1e-9)
        assert adaptive[-1, 0] < 0.25


GROUPS, INPUTS = 8, 64


def groups_of_classes():
    """Group j has 2^j classes of 2^(7-j) examples each: an eighth of the examples is alone in its class."""
    sizes = np.concatenate([np.full(2**j, 2 ** (GROUPS - 1 - j)) for j in range(GROUPS)])
    x = jax.random.uniform(jax.random.key(0), (np.sum(sizes), INPUTS), jnp.float32)
    return x, np.repeat(np.arange(len(sizes)), sizes), np.repeat(np.arange(GROUPS), 2 ** (GROUPS - 1))


def losses_of_groups(make, rates, steps=100):
    """The loss in each group after full-batch training at the best of the learning rates."""
    x, labels, groups = groups_of_classes()
    losses = lambda w: optax.softmax_cross_entropy_with_integer_labels(x @ w, labels)

    def train(tx):
        def step(carry, _):
            w, state = carry
            updates, state = tx.update(jax.grad(lambda w: jnp.mean(losses(w)))(w), state, w)
            return (w + updates, state), None

        w = jnp.zeros((INPUTS, 2**GROUPS - 1), x.dtype)
        return losses(jax.lax.scan(step, (w, tx.init(w)), None, length=steps)[0][0])

    lanes = jax.jit(jax.vmap(train))(gradlab.population(make, learning_rate=np.array(rates)))
    best = lanes[np.nanargmin(np.mean(lanes, axis=1))]
    return np.array([np.mean(best[groups == j]) for j in range(GROUPS)])


def test_descent_leaves_rare_classes_worse_than_guessing_and_adam_does_not():
    """2402.19449, figure 1, on softmax regression with uniform inputs."""
    guess = np.log(2**GROUPS - 1)
    descent = losses_of_groups(gradlab.sgd, [0.3, 1.0, 3.0])
    assert descent[0] < 0.5 * guess and descent[-1] > guess
    assert np.all(np.diff(descent) > 0)
    for make, rates in ((gradlab.adam, [0.01, 0.03, 0.1]), (gradlab.sign_sgd, [0.001, 0.003, 0.01])):
        adaptive = losses_of_groups(make, rates)
        assert adaptive[0] < 0.5 * guess and adaptive[-1] < 0.1 * guess
