"""Schedule-Free learning and primal averaging: three stored sequences, Optax, and what the papers claim."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_breast_cancer

import gradlab
from gradlab.optimizers.primal_averaging import primal_averaging
from gradlab.optimizers.schedule_free import schedule_free, schedule_free_eval_params
from gradlab.optimizers.schedule_free_bases import schedule_free_adamw, schedule_free_radam, schedule_free_sgd
from gradlab.tasks import quadratic, surface_task
from tests.oracles import averaging as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR, B1, WARMUP = 0.05, 0.9, 10
T = np.arange(STEPS)
CONSTANT = np.full(STEPS, LR)
OPTAX_RAMP = LR * np.minimum(np.arange(STEPS + 1) / WARMUP, 1)
AUTHORS_RAMP = OPTAX_RAMP[1:]
FALLING = 0.1 / (1 + np.arange(STEPS + 1))
RECTIFIED = np.array([oracle.rectification(t + 1, 0.999, 0.0) for t in range(STEPS)])
FROM_THE_START = np.array([oracle.rectification(t + 1, 0.999, 1.0) for t in range(STEPS)])


def ramp(count):
    return LR * jnp.minimum(count / float(WARMUP), 1.0)


def falling(count):
    return 0.1 / (1 + count)


def rising_b1(count):
    return 0.5 + 0.4 * count / STEPS


def case(tx, rates=CONSTANT, *, direction=lambda: oracle.gradients, b1=B1, weighed=None, factors=None, **options):
    """A transform beside its three sequences."""
    factors = oracle.factors_of(rates if weighed is None else weighed) if factors is None else factors
    return tx, direction, rates, factors, np.broadcast_to(b1, STEPS), options


ADAM = oracle.RootMeanSquare
RADAM = lambda: ADAM(rectified=True)
CASES = {
    "sgd": case(schedule_free_sgd(LR)),
    "sgd of one": case(schedule_free_sgd(), np.ones(STEPS)),
    "sgd b1": case(schedule_free_sgd(LR, b1=0.3), b1=0.3),
    "sgd b1 = 0": case(schedule_free_sgd(LR, b1=0.0), b1=0.0),
    "sgd scheduled b1": case(schedule_free_sgd(LR, b1=rising_b1), b1=0.5 + 0.4 * T / STEPS),
    "sgd decay": case(schedule_free_sgd(LR, weight_decay=0.1), weight_decay=0.1),
    "sgd warm-up": case(schedule_free_sgd(LR, WARMUP), OPTAX_RAMP[:-1], weighed=OPTAX_RAMP[1:]),
    "sgd warm-up, authors": case(schedule_free_sgd(LR, WARMUP, form="authors"), AUTHORS_RAMP),
    "sgd warm-up of a schedule": case(
        schedule_free_sgd(falling, WARMUP),
        (FALLING * OPTAX_RAMP / LR)[:-1],
        weighed=(FALLING * OPTAX_RAMP / LR)[1:],
    ),
    "sgd power": case(
        schedule_free_sgd(LR, WARMUP, weight_lr_power=0.5, form="authors"),
        AUTHORS_RAMP,
        factors=oracle.factors_of(AUTHORS_RAMP, 0.5),
    ),
    "sgd refined": case(
        schedule_free_sgd(LR, averaging_constant=3.0), factors=oracle.factors_of(CONSTANT, b1=B1, constant=3.0)
    ),
    "adamw": case(schedule_free_adamw(LR), direction=ADAM),
    "adamw all": case(
        schedule_free_adamw(LR, WARMUP, 0.8, 0.9, 1e-3, 0.1, form="authors"),
        AUTHORS_RAMP,
        b1=0.8,
        direction=lambda: ADAM(0.9, 1e-3),
        weight_decay=0.1,
    ),
    "radam": case(schedule_free_radam(LR, weight_decay=0.1), LR * RECTIFIED, direction=RADAM, weight_decay=0.1),
    "radam gradient": case(schedule_free_radam(LR, unrectified="gradient"), LR * FROM_THE_START, direction=RADAM),
    "wrapped": case(schedule_free(gradlab.sgd(falling), falling), FALLING[:-1], weighed=FALLING[1:]),
    "wrapped, authors": case(schedule_free(gradlab.sgd(falling), falling, form="authors"), FALLING[:-1]),
    "wrapped, ramp": case(schedule_free(gradlab.sgd(ramp), ramp), OPTAX_RAMP[:-1], weighed=OPTAX_RAMP[1:]),
    "primal averaging": case(primal_averaging(gradlab.sgd(LR)), b1=0.7, factors=np.full(STEPS, 1 - 0.9967)),
    "primal averaging at z": case(primal_averaging(gradlab.sgd(LR), 0.9, 0.0), b1=0.0, factors=np.full(STEPS, 0.1)),
    "primal averaging scheduled": case(
        primal_averaging(gradlab.sgd(LR), lambda count: 1 - 1.0 / (count + 1.0), rising_b1),
        b1=0.5 + 0.4 * T / STEPS,
        factors=1 / (T + 1),
    ),
}


def last_weights(tx, state, rows, params):
    return flat(gradlab.eval_params(tx, state, ravel_pytree(params)[1](jnp.asarray(rows[-1]))))


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_readout_are_those_of_three_stored_sequences(name):
    tx, direction, rates, factors, b1s, options = CASES[name]
    params, grads = mixed_tree(), mixed_grads()
    rows, state = run(tx, params, grads)
    p, gs = flat(params), flat(grads, rows=STEPS)
    expected, means = oracle.three_sequences(p, gs, direction(), rates, factors, b1s, **options)
    np.testing.assert_allclose(rows, expected, rtol=1e-10, atol=1e-12)
    at_z = b1s[-1] == 0  # of the average nothing is left
    expected_weights = expected[-1] if at_z else means[-1]
    np.testing.assert_allclose(last_weights(tx, state, rows, params), expected_weights, rtol=1e-10, atol=1e-12)


OPTAX_MODES = [
    ("schedule_free_sgd", {}),
    ("schedule_free_sgd", {"learning_rate": LR, "b1": 0.7, "weight_decay": 0.1, "weight_lr_power": 1.0}),
    ("schedule_free_sgd", {"learning_rate": falling}),
    ("schedule_free_adamw", {"learning_rate": LR}),
    ("schedule_free_adamw", {"learning_rate": ramp, "b1": 0.95, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("schedule_free", {"base_optimizer": optax.adam(ramp, b1=0.0), "learning_rate": ramp}),
    ("schedule_free", {"base_optimizer": optax.adamw(LR), "learning_rate": LR, "b1": 0.5}),
]


@pytest.mark.parametrize(("name", "mode"), OPTAX_MODES, ids=range(len(OPTAX_MODES)))
def test_positions_states_and_readouts_are_those_of_optax(name, mode):
    params, grads = mixed_tree(), mixed_grads()
    tx = getattr(gradlab, name)(**mode)
    ours = run(tx, params, grads)
    optaxs = run(getattr(optax.contrib, name)(**mode), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])
    last = ravel_pytree(params)[1](jnp.asarray(ours[0][-1]))
    weights = schedule_free_eval_params(ours[1], last)
    chex.assert_trees_all_close(weights, optax.contrib.schedule_free_eval_params(optaxs[1], last), rtol=1e-9)


def test_the_warm_up_of_optax_starts_with_an_empty_step_that_counts():
    """Its schedules are evaluated in float32 even under x64, hence the tolerance."""
    params, grads = mixed_tree(), mixed_grads()
    rows, _ = run(schedule_free_adamw(LR, WARMUP), params, grads)
    optaxs, _ = run(optax.contrib.schedule_free_adamw(LR, WARMUP), params, grads)
    np.testing.assert_allclose(rows, optaxs, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(rows[0], flat(params))
    assert np.all(run(schedule_free_adamw(LR, WARMUP, form="authors"), params, grads)[0][0] != flat(params))


def test_without_interpolation_optax_is_nan_and_gradlab_the_base_optimizer():
    params, grads = mixed_tree(), mixed_grads()
    rows, state = run(schedule_free(gradlab.adam(LR, b1=0.0), LR, b1=0.0), params, grads)
    alone, _ = run(gradlab.adam(LR, b1=0.0), params, grads)
    np.testing.assert_allclose(rows, alone, rtol=1e-12)
    chex.assert_tree_all_finite(state)
    optaxs, _ = run(optax.contrib.schedule_free(optax.adam(LR, b1=0.0), LR, b1=0.0), params, grads)
    assert np.all(np.isnan(optaxs[-1]))


def test_the_refined_form_is_the_plain_one_at_its_constant():
    params, grads = mixed_tree(), mixed_grads()
    plain, _ = run(schedule_free_sgd(LR), params, grads)
    refined, _ = run(schedule_free_sgd(LR, averaging_constant=1 / (1 - B1)), params, grads)
    np.testing.assert_allclose(refined, plain, rtol=1e-12)


def test_the_average_of_low_precision_parameters_does_not_stall():
    """In bfloat16 a sum of ones stops at 256, so that Optax's average stops averaging there."""
    params, grads = {"w": jnp.zeros(1, jnp.bfloat16)}, {"w": jnp.zeros((300, 1), jnp.bfloat16)}
    assert float(run(schedule_free_sgd(1.0), params, grads)[1].weight_sum) == 300
    assert float(run(optax.contrib.schedule_free_sgd(1.0), params, grads)[1].weight_sum) == 256


def test_z_may_have_a_dtype_of_its_own_and_is_no_alias():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = schedule_free_sgd(LR, state_dtype=jnp.float32).init(params)
    assert state.z["w"].dtype == jnp.float32
    same = schedule_free_sgd(LR).init(params).z["w"]
    assert same.dtype == jnp.bfloat16 and same.unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


@pytest.mark.parametrize("make", [schedule_free_adamw, schedule_free_radam])
def test_gradients_may_be_accumulated_around_it(make):
    """Optax divides by the number of micro-batches in float32 even under x64, hence the tolerance."""
    params, grads = mixed_tree(), mixed_grads(steps=20)
    means = jax.tree.map(lambda g: (g[::2] + g[1::2]) / 2, grads)
    accumulated, state = run(optax.MultiSteps(make(LR), 2).gradient_transformation(), params, grads)
    alone, state_alone = run(make(LR), params, means)
    np.testing.assert_allclose(accumulated[1::2], alone, rtol=1e-6, atol=1e-7)
    weights = last_weights(make(LR), state_alone, alone, params)
    np.testing.assert_allclose(last_weights(make(LR), state, accumulated, params), weights, rtol=1e-6, atol=1e-7)


def test_each_leaf_may_have_its_own_learning_rate():
    params, grads = mixed_tree(), mixed_grads()
    rates = {"dense": 0.1, "layers": 0.01}
    rows, _ = run(schedule_free_adamw(rates), params, grads)
    one, other = (run(schedule_free_adamw(rate), params, grads)[0] for rate in (0.1, 0.01))
    dense = flat(params["dense"]).size
    np.testing.assert_allclose(rows, np.hstack([one[:, :dense], other[:, dense:]]), rtol=1e-10)


def test_a_mask_hides_parameters_from_the_average():
    params, grads = mixed_tree(), mixed_grads()
    tx = gradlab.masked(schedule_free_sgd(LR), "dense")
    rows, state = run(tx, params, grads)
    last = ravel_pytree(params)[1](jnp.asarray(rows[-1]))
    weights = gradlab.eval_params(tx, state, last)
    chex.assert_trees_all_equal(weights["layers"], last["layers"])
    whole = schedule_free_sgd(LR)
    whole_rows, whole_state = run(whole, params, grads)
    whole_last = ravel_pytree(params)[1](jnp.asarray(whole_rows[-1]))
    chex.assert_trees_all_close(weights["dense"], gradlab.eval_params(whole, whole_state, whole_last)["dense"])


def test_fit_reports_at_the_average():
    task = surface_task(quadratic(condition=10.0))
    tx = schedule_free_sgd(0.1)
    history = gradlab.fit(task, tx, steps=30)
    expected = gradlab.eval_params(tx, history.run.opt_state, history.run.params)
    chex.assert_trees_all_equal(history.params, expected)
    at_x, at_y = (task.metrics(params, {}, None)["loss"] for params in (history.params, history.run.params))
    np.testing.assert_allclose(history.final["loss"], at_x, rtol=1e-6)
    assert abs(at_x - at_y) > 1e-3 * at_x


class TestTheClaim:
    """Logistic regression on noisy batches: no horizon, at least as good as a linear decay that knows it (figure 2)."""

    steps = 3000

    def best(self, make, rates):
        """The smallest final training loss over the learning rates."""
        features, labels = load_breast_cancer(return_X_y=True)
        features = np.c_[(features - features.mean(0)) / features.std(0), np.ones(len(labels))]
        features, signs = jnp.asarray(features, jnp.float32), jnp.asarray(2 * labels - 1, jnp.float32)
        batches = jax.random.randint(jax.random.key(0), (self.steps, 8), 0, len(labels))
        loss = lambda w, x, s: jnp.mean(jax.nn.softplus(-s * (x @ w)))

        def train(tx):
            def step(carry, batch):
                w, state = carry
                g = jax.grad(loss)(w, features[batch], signs[batch])
                updates, state = tx.update(g, state, w)
                return (w + updates, state), None

            start = jnp.zeros(features.shape[1], jnp.float32)
            (w, state), _ = jax.lax.scan(step, (start, tx.init(start)), batches)
            return loss(gradlab.eval_params(tx, state, w), features, signs)

        lanes = jax.vmap(make)(jnp.asarray(rates, jnp.float32))
        return float(jnp.nanmin(jax.jit(jax.vmap(train))(lanes)))

    def test_sgd(self):
        rates = 2.0 ** np.arange(-2, 6)
        free = self.best(schedule_free_sgd, rates)
        assert free <= self.best(lambda rate: gradlab.sgd(gradlab.linear_schedule(rate, 0.0, self.steps)), rates)
        assert free < 0.9 * self.best(gradlab.sgd, rates)

    def test_adamw(self):
        rates = 2.0 ** np.arange(-7, 1)
        free = self.best(schedule_free_adamw, rates)
        assert free <= self.best(lambda rate: gradlab.adam(gradlab.linear_schedule(rate, 0.0, self.steps)), rates)
        assert free < 0.9 * self.best(gradlab.adam, rates)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"`b1` must be in \[0, 1\), got 1"):
        schedule_free_sgd(b1=1.0)
    with pytest.raises(ValueError, match="unknown form 'author'; did you mean 'authors'"):
        schedule_free_sgd(form="author")
    tx = gradlab.chain(schedule_free_sgd(LR))
    with pytest.raises(ValueError, match="got tuple; gradlab.eval_params"):
        schedule_free_eval_params(tx.init(jnp.ones(1)), jnp.ones(1))
    with pytest.raises(ValueError, match="schedule_free needs the parameters"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
