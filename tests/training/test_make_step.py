"""`make_step`: the numbers of a plain loop, in place, with few activations, and in parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab import make_step, start_step

TX = {
    "adamw": lambda: gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.adamw(1e-2)),
    "schedule": lambda: gradlab.sgd(gradlab.linear_schedule(0.1, 0.0, 10), momentum=0.9),
    "muon": lambda: gradlab.muon(0.02),
    "optax": lambda: optax.adam(1e-2),
    "lbfgs": gradlab.lbfgs,
}


def params():
    generator = np.random.default_rng(0)
    leaf = lambda *shape: jnp.asarray(generator.normal(size=shape) * 0.3, jnp.float32)
    return {"Dense_0": {"kernel": leaf(6, 8), "bias": leaf(8)}, "Dense_1": {"kernel": leaf(8, 4)}}


def batch(examples=8):
    generator = np.random.default_rng(1)
    return {"x": generator.normal(size=(examples, 6)), "y": generator.normal(size=(examples, 4))}


def loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    error = hidden @ params["Dense_1"]["kernel"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.mean(jnp.abs(error))}


def plain(tx, steps):
    weights, history = params(), []
    state = tx.init(weights)
    value_fn = lambda weights: loss(weights, batch())[0]
    for _ in range(steps):
        value, grads = jax.value_and_grad(value_fn)(weights)
        history.append(float(value))
        extra = {"value": value, "grad": grads, "value_fn": value_fn}
        updates, state = optax.with_extra_args_support(tx).update(grads, state, weights, **extra)
        weights = optax.apply_updates(weights, updates)
    return weights, history


def test_buckets_are_trained_like_the_tree_and_in_place():
    expected, history = plain(TX["adamw"](), 3)
    state, step, losses = start_step(TX["adamw"](), gradlab.bucket(params())), make_step(loss, parts=2, remat=True), []
    program = step.lower(state, batch()).compile()
    assert program.memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    for _ in range(3):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss"]))
    chex.assert_trees_all_close(gradlab.unbucket(state).params, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(losses, history, rtol=1e-5)


@pytest.mark.parametrize("name", TX)
def test_it_makes_the_steps_of_a_plain_loop(name):
    expected, history = plain(TX[name](), 3)
    state, step, losses = start_step(TX[name](), params()), make_step(loss), []
    for _ in range(3):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss"]))
    chex.assert_trees_all_close(state.params, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(losses, history, rtol=1e-5)
    assert int(state.step) == 3 and set(metrics) == {"loss", "grad_norm", "largest"}


@pytest.mark.parametrize("name", ["adamw", "schedule", "muon"])
def test_parameters_and_slots_are_updated_in_place(name):
    """Every leaf of the state is an alias of one that comes out: read in the compiled program."""
    state = start_step(TX[name](), params())
    compiled = make_step(loss).lower(state, batch()).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == size
    assert compiled.as_text().splitlines()[0].count("may-alias") == len(jax.tree.leaves(state))
    kept = make_step(loss, donate=False).lower(state, batch()).compile()
    assert kept.memory_analysis().alias_size_in_bytes == 0


def test_the_old_state_is_gone_and_what_was_given_stays():
    given = params()
    state = start_step(gradlab.adam(1e-2), given)
    new, _ = make_step(loss)(state, batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.opt_state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, new)))
    kept = start_step(gradlab.adam(1e-2), given)
    make_step(loss, donate=False)(kept, batch())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))


def test_one_trace_for_any_hyperparameters_and_all_steps():
    counted = make_step(chex.assert_max_traces(loss, 2))  # the gradient, and the loss for line searches
    for rate in (0.1, 0.2):
        state = start_step(gradlab.adamw(rate), params())
        for _ in range(3):
            state, _ = counted(state, batch())


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_make_the_same_step_as_the_whole(parts):
    whole, expected = make_step(loss)(start_step(gradlab.adam(1e-2), params()), batch())
    split, metrics = make_step(loss, parts=parts)(start_step(gradlab.adam(1e-2), params()), batch())
    chex.assert_trees_all_close(split.params, whole.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)


def test_parts_hold_fewer_activations_and_one_accumulator():
    state, many = start_step(gradlab.sgd(0.1), params()), batch(4096)
    scratch = lambda step: step.lower(state, many).compile().memory_analysis().temp_size_in_bytes
    assert scratch(make_step(loss, parts=16)) < scratch(make_step(loss)) / 4
    scans = [eqn for eqn in jax.make_jaxpr(make_step(loss, parts=4))(state, many).eqns[0].params["jaxpr"].eqns
             if eqn.primitive.name == "scan"]  # fmt: skip
    (scan,) = scans
    assert scan.params["length"] == 4 and scan.params["num_carry"] == 2 + 3  # loss, metric, three gradients


def test_the_accumulator_has_the_dtype_that_was_asked_for():
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
    for dtype, expected in ((None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)):
        step = make_step(loss, parts=2, accumulator_dtype=dtype)
        jaxpr = jax.make_jaxpr(step)(start_step(gradlab.sgd(0.1), narrow), batch()).eqns[0].params["jaxpr"]
        (scan,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
        kernel = [var.aval.dtype for var in scan.outvars if var.aval.shape == (6, 8)]
        assert kernel == [expected]


def test_loss_and_metrics_are_added_up_in_their_own_dtype_and_complex_gradients_in_a_complex_one():
    def loss(params, batch):
        metrics = {"level": jnp.mean(batch["level"]), "examples": batch["level"].shape[0]}
        return jnp.mean(jnp.abs(batch["x"] - params["w"]) ** 2) + 1000, metrics

    given = {"x": jnp.full(16, 3.5 - 3.5j, jnp.complex64), "level": jnp.linspace(1000, 1001, 16)}
    started = lambda: start_step(gradlab.sgd(0.1), {"w": jnp.zeros((), jnp.complex64)})
    state, metrics = make_step(loss, parts=8, accumulator_dtype="bfloat16")(started(), given)
    whole, _ = make_step(loss)(started(), given)
    np.testing.assert_allclose(state.params["w"], whole.params["w"], rtol=1e-5)
    np.testing.assert_allclose(state.params["w"], 0.7 - 0.7j, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 1024.5, rtol=1e-6)
    np.testing.assert_allclose(metrics["level"], 1000.5, rtol=1e-6)
    assert metrics["examples"] == 2  # the mean over parts of what each has


def test_states_of_one_optimizer_own_their_buffers():
    tx, step = gradlab.sgd(jnp.float32(0.1), momentum=0.9), make_step(loss)
    one, two = start_step(tx, params()), start_step(tx, params())
    three = start_step(one.tx, params())
    ends = [step(state, batch())[0].params for state in (one, two, three)]
    chex.assert_trees_all_equal(*ends)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tx) if isinstance(leaf, jax.Array))


def test_an_accumulating_optimizer_of_optax_is_taken_as_it_is():
    state, step = start_step(optax.MultiSteps(optax.sgd(0.5), 2), {"w": jnp.zeros(())}), make_step(_distance)
    places = []
    for target in (1.0, 3.0):
        state, _ = step(state, jnp.full(2, target))
        places.append(float(state.params["w"]))
    assert places == [0.0, 2.0]


def _distance(params, batch):
    return jnp.mean((batch - params["w"]) ** 2)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jax.ShapeDtypeStruct((2,), "float32"), r"at 'a/n' is a shape.*jit\(model.init, out_shardings=layout.params\)"),
        (np.zeros((), np.uint32), r"at 'a/n' is uint32, and only floating.*nnx.split\(model, nnx.Param"),
        (jax.random.key(0), r"at 'a/n' is key<fry>, and only floating"),
    ],
)
def test_a_state_starts_from_floating_point_numbers(leaf, message):
    with pytest.raises(TypeError, match=message):
        start_step(gradlab.sgd(0.1), {"a": {"n": leaf}, "w": jnp.ones(2)})


def test_remat_computes_again_what_it_does_not_keep():
    state = start_step(gradlab.sgd(0.1), params())
    tanhs = lambda step: str(jax.make_jaxpr(step)(state, batch())).count("tanh")
    again, whole = make_step(loss, remat=True), make_step(loss)
    assert tanhs(again) == 2 * tanhs(whole)
    saved = make_step(loss, remat=jax.checkpoint_policies.everything_saveable)
    for other in (again, saved):
        one, _ = other(start_step(gradlab.sgd(0.1), params()), batch())
        two, _ = whole(start_step(gradlab.sgd(0.1), params()), batch())
        chex.assert_trees_all_close(one.params, two.params, rtol=1e-6)


def test_states_are_lanes():
    states = jax.vmap(lambda rate: start_step(gradlab.sgd(rate), params()))(jnp.array([0.1, 0.2]))
    new, _ = jax.vmap(make_step(loss), in_axes=(0, None))(states, batch())
    alone, _ = make_step(loss)(start_step(gradlab.sgd(0.2), params()), batch())
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], new.params), alone.params, rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda p, b: b["x"] @ p["Dense_0"]["kernel"], {}, r"must be one real number.*\[8, 8\]"),
        (lambda p, b: (jnp.sum(p["Dense_0"]["bias"]), {"loss": 1.0}), {}, "without 'loss' and 'grad_norm'"),
        (lambda p, b: (*loss(p, b), b), {}, r"must return a number or \(number, metrics\), got 3 values"),
        (loss, {"parts": 3}, r"leaf at 'x' of shape \(8, 6\) does not divide into parts=3"),
    ],
)
def test_what_does_not_fit_is_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        make_step(function, **options)(start_step(gradlab.sgd(0.1), params()), batch())
    with pytest.raises(ValueError, match="`parts` must be"):
        make_step(loss, parts=0)
    with pytest.raises(TypeError, match="`parts` must be an integer, got 2.0"):
        make_step(loss, parts=2.0)
    with pytest.raises(TypeError, match="`accumulator_dtype` must be of floating-point numbers.* got int32"):
        make_step(loss, parts=2, accumulator_dtype=jnp.int32)
