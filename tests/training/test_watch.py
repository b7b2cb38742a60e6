"""Instruments inside of a run: they see what happened, when they should, in every lane, and change nothing."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.instruments import adam_diagonal, dense, hessian, preconditioned, two_batch
from gradlab.tasks import quadratic, surface_task
from gradlab.tasks.catalogue import digits_mlp
from gradlab.training.instruments import Noise, Norms, Saddle, Stability, make_instruments
from gradlab.training.segment import NOISE, start_of
from gradlab.training.step import train_step, watched_step
from gradlab.training.watch import Watch

RUN = {"steps": 8, "batch_size": 16, "eval_every": 4, "key": 3}


@pytest.fixture(scope="module")
def task():
    return digits_mlp(hidden=(3,))


@pytest.fixture(scope="module")
def watched(task):
    instruments = ["health", "probe", "noise", Stability(products=5), Saddle(products=3)]
    return gradlab.fit(task, gradlab.adamw(1e-2), instruments=instruments, monitor_every=3, **RUN)


def test_the_run_does_not_notice(task, watched):
    alone = gradlab.fit(task, gradlab.adamw(1e-2), **RUN)
    np.testing.assert_allclose(watched.loss, alone.loss, rtol=1e-6)
    chex.assert_trees_all_close(watched.params, alone.params, rtol=1e-5, atol=1e-7)
    assert alone.instruments == {} and alone.instrument_step.size == 0


def test_looks_come_when_asked_whatever_the_segments(watched):
    assert watched.instrument_step.tolist() == [0, 3, 6]
    assert {values.shape for values in watched.instruments.values()} == {(3,)}
    names = {name.partition("/")[0] for name in watched.instruments}
    assert names == {"health", "probe", "noise", "stability", "saddle"}
    unknown = {name for name, values in watched.instruments.items() if not np.isfinite(values).all()}
    assert unknown == {"health/cosine", "noise/scale_error"}  # before there are two of them
    assert np.isnan([watched.instruments[name][0] for name in unknown]).all()


@pytest.mark.parametrize(("every", "steps"), [(1, range(8)), (4, [0, 4]), (5, [0, 5]), (100, [0]), (None, [0, 4])])
def test_any_spacing(task, every, steps):
    history = gradlab.fit(task, gradlab.sgd(0.1), instruments="light", monitor_every=every, **RUN)
    assert history.instrument_step.tolist() == list(steps)
    assert np.isfinite(history.instruments["norms/grads"]).all()
    np.testing.assert_allclose(history.instruments["norms/update"], 0.1 * history.instruments["norms/grads"], rtol=1e-5)


def test_they_see_the_step_as_it_was(task, watched):
    """The run again, step by step, measured by hand at step 3."""
    tx, key = gradlab.adamw(1e-2), jax.random.key(RUN["key"])
    batches = []
    gradlab.fit(
        task, tx, instruments=[lambda sight: jax.debug.callback(batches.append, sight.batch) or 0.0],
        monitor_every=1, **RUN,
    )  # fmt: skip
    run = start_of(task, tx, key).run
    for step in range(4):
        before, batch = run, batches[step]
        noise = jax.random.fold_in(jax.random.fold_in(key, NOISE), step)
        run, loss = train_step(task, tx, before, batch, noise, jnp.int32(step))
        np.testing.assert_allclose(loss, watched.loss[step], rtol=1e-5)
    seen = {name: values[1] for name, values in watched.instruments.items()}
    value = lambda params, batch: task.loss(params, {}, batch, noise)[0]
    grads = jax.grad(value)(before.params, batch)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    update = flat(run.params) - flat(before.params)
    start = flat(start_of(task, tx, key).run.params)
    op = hessian(value, before.params, batch)
    h = dense(op)
    expected = {
        "health/params": np.linalg.norm(flat(before.params)),
        "health/grads": np.linalg.norm(flat(grads)),
        "health/update": np.linalg.norm(update),
        "health/distance": np.linalg.norm(flat(before.params) - start),
        "health/nonfinite": 0,
        "probe/slope": flat(grads) @ update,
        "probe/curvature": update @ h @ update,
        "probe/grad_curvature": flat(grads) @ h @ flat(grads),
        "probe/actual": value(run.params, batch) - loss,
        "saddle/curvature": update @ h @ update / (update @ update),
        "stability/threshold": 38 / 1e-2,
    }
    for name, number in expected.items():
        np.testing.assert_allclose(seen[name], number, rtol=2e-3, atol=1e-6, err_msg=name)
    sharpness = np.linalg.eigvalsh(dense(preconditioned(op, adam_diagonal(run.opt_state))))[-1]
    assert abs(seen["stability/sharpness"] - sharpness) <= seen["stability/residual"] + 1e-3 * sharpness
    now = two_batch(value, before.params, batch, 8)
    first = two_batch(
        lambda p, b: task.loss(p, {}, b, jax.random.fold_in(jax.random.fold_in(key, NOISE), 0))[0],
        start_of(task, tx, key).run.params, batches[0], 8,
    )  # fmt: skip
    weights = np.array([0.9, 1.0]) / 1.9
    np.testing.assert_allclose(seen["noise/trace"], weights @ [float(first.trace), float(now.trace)], rtol=1e-3)


def test_known_numbers_on_a_quadratic():
    surface = surface_task(quadratic(condition=10.0))
    history = gradlab.fit(surface, gradlab.sgd(0.05), steps=6, instruments=["probe", "stability"], monitor_every=2)
    np.testing.assert_allclose(history.instruments["probe/ratio"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(history.instruments["stability/sharpness"], 10.0, rtol=1e-5)
    np.testing.assert_allclose(history.instruments["stability/threshold"], 40.0, rtol=1e-5)


def test_looks_end_where_a_run_diverges():
    surface = surface_task(quadratic(condition=10.0))
    history = gradlab.fit(surface, gradlab.sgd(1e6), steps=60, instruments="light", monitor_every=1)
    assert history.reason == "diverged"
    assert history.instrument_step.tolist() == list(range(int(history.run.ended_at)))


def test_functions_of_the_user_take_part(task):
    def biggest(sight):
        return {"grad": jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(sight.grads)]))}

    def rate(sight):
        return gradlab.current_hyperparams(sight.tx, sight.opt_state)["learning_rate"]

    tx = gradlab.sgd(gradlab.linear_schedule(1.0, 0.0, 8))
    history = gradlab.fit(task, tx, instruments=[biggest, rate, Norms(), Stability(products=2)], **RUN)
    assert set(history.instruments) >= {"biggest/grad", "rate/value", "norms/ratio"}
    np.testing.assert_allclose(history.instruments["rate/value"], [1.0, 0.5])
    np.testing.assert_allclose(history.instruments["stability/threshold"], [2.0, 4.0])  # of the step that is made


@pytest.mark.parametrize("method", ["vmap", "map", "loop"])
def test_every_lane_of_a_sweep_sees_what_a_run_alone_sees(task, method):
    options = {name: value for name, value in RUN.items() if name != "key"}
    watch = {"instruments": ["health", "noise", Stability(products=4)], "monitor_every": 2}
    space = {"learning_rate": {"choice": [1e-3, 1e-2, 1e-1]}}
    swept = gradlab.sweep(
        task, gradlab.adam, space, trials=3, sampler="grid", seeds=[3, 5], lane_method=method, **options, **watch
    )
    alone = gradlab.fit(task, gradlab.adam(swept.trials[1].values["learning_rate"]), **RUN, **watch)
    for name, values in alone.instruments.items():
        lane = swept.metrics[name][1, 0]
        assert np.isnan(lane[0])
        np.testing.assert_allclose(lane[1:], values[[1, 3]], rtol=2e-3, atol=1e-6, err_msg=name)
    assert swept.main_metric == "valid_loss"
    assert "health/grads_final" in swept.table and "health/grads_best" not in swept.table


def test_between_looks_nothing_is_measured_even_in_lanes(task):
    """The branch stays a branch under vmap: its predicate belongs to no lane."""
    watch = Watch((Norms(),), every=3)
    tx = gradlab.sgd(0.1)
    run = start_of(task, tx, jax.random.key(0), watch).run
    rates = jax.vmap(gradlab.sgd)(jnp.array([0.1, 0.2]))
    step = lambda tx, step: watched_step(task, tx, run, task.train, jax.random.key(0), step, watch)[2]
    jaxpr = jax.make_jaxpr(jax.vmap(step, in_axes=(0, None)))(rates, jnp.int32(0))
    assert "cond[" in str(jaxpr)
    counted = jax.jit(jax.vmap(chex.assert_max_traces(step, 1), in_axes=(0, None)))
    assert np.isfinite(counted(rates, jnp.int32(3))["norms/grads"]).all()
    assert np.isnan(counted(rates, jnp.int32(4))["norms/grads"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instruments": "normale"}, "unknown instrument 'normale'; did you mean 'normal'?"),
        ({"instruments": ["probe", "light"]}, "'light' is a preset"),
        ({"instruments": ["probe", "probe"]}, "'probe' is given 2 times"),
        ({"instruments": [Noise(parts=3)]}, "cannot cut a batch of 16 examples into 3"),
        ({"instruments": [lambda sight: sight.batch["x"]]}, "must give real scalars"),
        ({"monitor_every": 3}, "monitor_every=3 without instruments"),
        ({"instruments": "light", "monitor_every": 0}, "`monitor_every` must be"),
        ({"instruments": "light", "micro_batches": 2}, "do not go with micro_batches"),
    ],
)
def test_what_does_not_fit_is_refused(task, arguments, message):
    with pytest.raises(ValueError, match="(?s).*" + re.escape(message)):
        gradlab.fit(task, gradlab.sgd(0.1), **RUN, **arguments)


def test_other_things_are_no_instruments(task):
    with pytest.raises(TypeError, match="an instrument must be one of norms, health"):
        gradlab.fit(task, gradlab.sgd(0.1), **RUN, instruments=[Norms])
    with pytest.raises(ValueError, match="noise without data"):
        make_instruments(["noise"], examples=0)
    assert [one.name for one in make_instruments("normal", examples=0)] == ["health", "probe"]


def test_a_sweep_keeps_what_was_seen_before_each_evaluation(task):
    with pytest.raises(ValueError, match="monitor_every=5 is more than the 4 steps between evaluations"):
        gradlab.sweep(
            task, gradlab.sgd, {"learning_rate": {"log": [0.01, 0.1]}}, trials=2, steps=8, eval_every=4,
            batch_size=16, instruments="light", monitor_every=5,
        )  # fmt: skip
