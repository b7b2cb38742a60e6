"""What users of Optax ask for again and again: first what Optax 0.2 does, then what happens here.

The first half of each test states how Optax behaves; where a later release mends it, that half may go.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import gradlab
from gradlab.bench.optimizer_cases import planned_bytes
from tests.contracts.cases import NAMES, build
from tests.jaxprs import count_equations

PARAMS = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
GRADS = jax.tree.map(lambda p: p / 2, PARAMS)
RATE = gradlab.linear_schedule(1.0, 0.0, 10)


def _one_update(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


def _traces(optimizers, **options):
    """How often a function of the optimizer is traced when it sees these one after another."""
    count = 0

    @functools.partial(jax.jit, **options)
    def update(tx, state):
        nonlocal count
        count += 1
        return tx.update(GRADS, state, PARAMS)

    for tx in optimizers:
        update(tx, tx.init(PARAMS))
    return count


def test_a_new_learning_rate_compiles_nothing():
    """Optax 577, 353, 197: hyperparameters are constants of the program."""
    rates = (0.1, 0.2, 0.3)
    assert _traces([optax.adam(rate) for rate in rates], static_argnums=0) == 3
    with pytest.raises(TypeError, match="as an abstract array"):
        _traces([optax.adam(0.1)])
    assert _traces([gradlab.adam(rate) for rate in rates]) == 1


def test_an_optimizer_built_again_is_the_same_program():
    """Optax 353, 1693: two builds of one optimizer are different functions."""
    assert optax.adam(0.1) != optax.adam(0.1)
    assert _traces([optax.adam(0.1), optax.adam(0.1)], static_argnums=0) == 2
    build_again = lambda: gradlab.chain(gradlab.clip(1.0), gradlab.adamw(RATE, mask="kernel"))
    assert jax.tree.structure(build_again()) == jax.tree.structure(build_again())
    assert _traces([build_again(), build_again()]) == 1


def test_nobody_has_to_say_which_arguments_are_static():
    """Optax 412: an integer that shapes the program becomes a traced hyperparameter unless it is named."""

    def update_of(inject, factory):
        tx = inject(factory)(0.01, axis=0)
        return jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)

    with pytest.raises(jax.errors.ConcretizationTypeError):
        update_of(optax.inject_hyperparams, optax.adaptive_grad_clip)
    _, state = update_of(gradlab.inject_hyperparams, gradlab.adaptive_grad_clip)
    assert set(state.hyperparams) == {"clipping", "eps"}


def test_bfloat16_parameters_do_not_round_the_hyperparameters():
    """Optax 1414: b2 = 0.999 becomes 1, and the first update NaN."""
    params = jnp.ones(3, jnp.bfloat16)
    tx = optax.inject_hyperparams(optax.adamw)(0.1)
    assert float(tx.init(params).hyperparams["b2"]) == 1.0
    assert np.all(np.isnan(_one_update(tx, params, params).astype(float)))
    tx = gradlab.inject_hyperparams(gradlab.adamw)(0.1)
    assert abs(float(tx.init(params).hyperparams["b2"]) - 0.999) < 1e-7
    for optimizer in (tx, gradlab.adamw(0.1)):
        np.testing.assert_allclose(_one_update(optimizer, params, params).astype(float), -0.1, rtol=2**-8)


def test_hyperparameters_in_the_state_change_no_bit_of_the_steps():
    """Optax 1532, 583: the wrapped optimizer drifts away from the plain one."""

    def end_of(tx):
        params = jax.tree.map(lambda p: p.astype(jnp.float32), PARAMS)
        step = jax.jit(lambda g, s, p: tx.update(g, s, p))
        state = tx.init(params)
        for count in range(20):
            updates, state = step(jax.tree.map(lambda p, k=count: jnp.sin((k + 1) * p), params), state, params)
            params = optax.apply_updates(params, updates)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])

    rate = 0.01
    assert np.any(end_of(optax.amsgrad(rate)) != end_of(optax.inject_hyperparams(optax.amsgrad)(rate)))
    np.testing.assert_array_equal(
        end_of(gradlab.amsgrad(rate)), end_of(gradlab.inject_hyperparams(gradlab.amsgrad)(rate))
    )


def test_a_mask_function_is_not_taken_for_a_schedule():
    """Optax 1373, 913, 1007: every callable is a schedule; here the mask, asked about the count, says no."""
    only_matrices = lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params)
    decay = {"weight_decay": 0.5, "mask": only_matrices}
    lost = _one_update(optax.inject_hyperparams(optax.adamw)(0.1, **decay))
    plain = _one_update(optax.adamw(0.1, **decay))
    assert not np.allclose(lost["dense"]["kernel"], plain["dense"]["kernel"])
    kept = _one_update(gradlab.inject_hyperparams(gradlab.adamw)(0.1, **decay))
    chex.assert_trees_all_close(kept, plain, rtol=1e-6)


def test_the_learning_rate_can_be_read_wherever_it_is():
    """Optax 964, 206, 312, flax 4320: a schedule's value is in no state."""
    stages = lambda lib: (lib.clip_by_global_norm(1.0), lib.adam(RATE))
    assert optax.tree.get(optax.chain(*stages(optax)).init(PARAMS), "learning_rate") is None
    tx = gradlab.partition({"all": gradlab.chain(*stages(gradlab))}, gradlab.by_path((".", "all")))
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(gradlab.current_hyperparams(tx, state)["learning_rate"], 0.7)


def test_models_with_different_hyperparameters_train_in_one_vmap():
    """Optax 932, 577: an optimizer is no argument of vmap."""
    with pytest.raises(TypeError, match="not a valid JAX type"):
        jax.vmap(_one_update)(optax.adam(0.1))
    lanes = gradlab.population(gradlab.adam, learning_rate=jnp.array([0.1, 0.2]))
    updates = jax.vmap(_one_update)(lanes)
    np.testing.assert_allclose(updates["dense"]["bias"][:, 0], [-0.1, -0.2], rtol=1e-6)


def test_a_schedule_may_be_traced():
    """Optax 503: schedules branch in Python on their values."""
    peaks, horizons = jnp.array([1.0, 2.0]), jnp.array([5.0, 10.0])
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.vmap(lambda peak: optax.warmup_cosine_decay_schedule(0.0, peak, 5, 10)(3))(peaks)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.vmap(lambda steps: optax.cosine_decay_schedule(1.0, steps)(3))(horizons)
    values = jax.vmap(lambda peak, steps: gradlab.warmup_cosine_decay_schedule(0.0, peak, 2, steps)(3))(peaks, horizons)
    expected = [optax.warmup_cosine_decay_schedule(0.0, *pair)(3) for pair in ((1.0, 2, 5), (2.0, 2, 10))]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_the_trace_grows_slowly_with_the_leaves():
    """Optax 1498, precondition 24: one copy of every operation for every leaf."""
    params = {f"w{index}": jnp.ones((4, 4)) for index in range(100)}

    def equations(lib):
        tx = lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(0.1))
        return count_equations(tx.update, params, tx.init(params), params)

    assert equations(gradlab) < 0.25 * equations(optax) and equations(optax) > 20 * len(params)


def test_accumulation_takes_no_memory_but_the_accumulator_and_calls_the_optimizer_once_a_step():
    """Optax 320, 472, 528: a further buffer, and an inner update at every mini-step."""
    params = {name: jax.ShapeDtypeStruct((64, 64), jnp.float32) for name in "abcd"}

    def bytes_of(lib):
        tx = lib.MultiSteps(lib.adam(0.1), 4)

        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return lib.apply_updates(params, updates), state

        jitted = jax.jit(step, donate_argnums=(0, 1))
        return planned_bytes(jitted.lower(params, jax.eval_shape(tx.init, params), params).compile())

    assert bytes_of(gradlab) < bytes_of(optax) - 1.9 * (4 * 64 * 64 * 4)

    def calls(multi_steps):
        seen = []

        def count_call(g, params):
            jax.debug.callback(lambda: seen.append(None))
            return g

        tx = multi_steps(optax.stateless(count_call), 4)
        state = tx.init(jnp.ones(2))
        for _ in range(8):
            _, state = tx.update(jnp.ones(2), state)
        jax.effects_barrier()
        return len(seen)

    assert (calls(optax.MultiSteps), calls(gradlab.MultiSteps)) == (8, 2)


def test_accumulation_is_a_transform_and_recovers_from_a_nan():
    """Optax 377, 828, 1567, equinox 590: no GradientTransformation; 0 * NaN stays in the accumulator for good."""
    is_transform = lambda tx: isinstance(tx, optax.GradientTransformation)
    assert not is_transform(optax.MultiSteps(optax.sgd(1.0), 2))
    assert is_transform(gradlab.MultiSteps(gradlab.sgd(1.0), 2))

    def last_update(lib):
        tx = lib.MultiSteps(lib.chain(lib.zero_nans(), lib.sgd(1.0)), 2)
        state = tx.init(jnp.zeros(1))
        for g in (jnp.nan, 1.0, 3.0, 5.0):
            updates, state = tx.update(jnp.array([g]), state)
        return updates.tolist()

    assert last_update(optax) == [0.0] and last_update(gradlab) == [-4.0]


def test_bfloat16_leaves_are_computed_in_float32():
    """Optax 1552, 1098, 1444: the arithmetic has the dtype of the leaf; after 199 steps Adam's direction is 4 % off."""
    g = jnp.asarray(np.random.default_rng(0).normal(size=500), jnp.bfloat16)
    factors = jnp.cos(jnp.arange(1.0, 200.0)).astype(jnp.bfloat16)

    def mean_length(lib):
        tx = lib.scale_by_adam()
        _, updates = jax.lax.scan(lambda s, c: tx.update(c * g, s)[::-1], tx.init(g), factors)
        assert updates.dtype == jnp.bfloat16
        return float(jnp.mean(jnp.abs(updates[-1].astype(float))))

    mu = nu = np.zeros(500)
    for exact in np.asarray(factors[:, None] * g, float):
        mu, nu = 0.9 * mu + 0.1 * exact, 0.999 * nu + 0.001 * exact**2
    expected = np.mean(np.abs(mu / (1 - 0.9**199)) / np.sqrt(nu / (1 - 0.999**199)))
    assert abs(mean_length(optax) / expected - 1) > 0.03
    assert abs(mean_length(gradlab) / expected - 1) < 0.003


def test_a_zero_gradient_in_float16_is_no_nan():
    """Optax 1754, 1784, 1789: eps = 1e-8 is zero in float16."""
    zeros = jnp.zeros(3, jnp.float16)
    assert np.all(np.isnan(_one_update(optax.adam(0.1), zeros, zeros)))
    assert not np.any(_one_update(gradlab.adam(0.1), zeros, zeros))


def test_a_float16_norm_does_not_overflow():
    """Optax 1752, maxtext 5143: the norm is infinite, and the clipped gradients silently zero."""
    g = jnp.full(4, 300.0, jnp.float16)
    assert not np.any(_one_update(optax.clip_by_global_norm(1.0), g, g))
    np.testing.assert_allclose(_one_update(gradlab.clip_by_global_norm(1.0), g, g), 0.5)
    assert np.all(np.isnan(_one_update(optax.clip_by_global_norm(0.0), 0 * g, g)))
    assert not np.any(_one_update(gradlab.clip_by_global_norm(0.0), 0 * g, g))


def test_the_layout_of_a_state_follows_from_that_of_the_parameters():
    """Optax 548, flax 5112: map_params refuses a tree of specifications below a mask."""
    kernel, bias, none = PartitionSpec("x"), PartitionSpec("y"), PartitionSpec()
    specs, labels = {"dense": {"kernel": kernel, "bias": bias}}, {"dense": {"kernel": "a", "bias": "b"}}
    masked = lambda lib: lib.masked(lib.adam(0.1), {"dense": {"kernel": True, "bias": False}})
    with pytest.raises(ValueError, match="MaskedNode"):
        take = lambda leaf, spec: spec
        optax.tree.map_params(masked(optax), take, masked(optax).init(PARAMS), specs)
    assert jax.tree.leaves(gradlab.state_specs(masked(gradlab), specs)) == [none, kernel, kernel]
    tx = gradlab.partition({"a": gradlab.adam(0.1), "b": gradlab.sgd(0.1, momentum=0.9)}, labels)
    assert jax.tree.leaves(gradlab.state_specs(tx, specs)) == [none, kernel, kernel, bias]


def test_parameters_are_chosen_by_pattern_and_a_wrong_choice_is_named():
    """Optax 160, 271, 290, 296: label trees by hand, and errors of the tree library."""
    with pytest.raises(ValueError) as caught:
        optax.partition({"sgd": optax.sgd(0.1)}, {"dense": {"kernel": "sgd", "bias": "sdg"}}).init(PARAMS)
    assert "bias" not in str(caught.value)
    with pytest.raises(ValueError, match="parameter 'dense/bias' has the label 'sdg'.*did you mean 'sgd'"):
        gradlab.partition({"sgd": gradlab.sgd(0.1)}, {"dense": {"kernel": "sgd", "bias": "sdg"}}).init(PARAMS)
    with pytest.raises(ValueError, match="match no parameter; the paths are .*'dense/bias'"):
        gradlab.freeze("kernle").init(PARAMS)
    updates = _one_update(gradlab.chain(gradlab.sgd(1.0), gradlab.freeze("bias$")))
    assert not np.any(updates["dense"]["bias"]) and np.all(updates["dense"]["kernel"] == -0.5)


def test_a_norm_is_that_of_its_group_inside_of_a_partition_and_of_all_outside():
    """A global norm inside of Optax's partition is silently the norm of a group; so it is here, and documented."""
    rules = gradlab.by_path(("kernel", "a"), (".", "b"))
    norm = lambda updates: float(gradlab.global_norm(updates))
    inside = gradlab.partition({"a": gradlab.clip_by_global_norm(0.5), "b": gradlab.clip_by_global_norm(0.5)}, rules)
    updates = _one_update(inside)["dense"]
    np.testing.assert_allclose([norm(updates["kernel"]), norm(updates["bias"])], 0.5, rtol=1e-6)
    outside = gradlab.chain(gradlab.clip_by_global_norm(0.5), gradlab.partition({"b": gradlab.sgd(1.0)}, lambda p: "b"))
    np.testing.assert_allclose(norm(_one_update(outside)), 0.5, rtol=1e-6)
    assert "Inside of `partition`" in gradlab.clip_by_global_norm.__doc__


def test_each_parameter_may_have_its_own_learning_rate_and_decay():
    """Optax 59, flax 756: a tree of learning rates is an operand error."""
    rates = {"dense": {"kernel": 0.1, "bias": 0.2}}
    with pytest.raises(TypeError, match="unsupported operand"):
        _one_update(optax.sgd(rates))
    updates = _one_update(gradlab.chain(gradlab.add_decayed_weights({"dense": 1.0}), gradlab.sgd(rates)))
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * (0.5 + 1.0))
    np.testing.assert_allclose(updates["dense"]["bias"], -0.2 * (0.5 + 1.0))


def test_weight_decay_goes_with_any_optimizer_and_has_its_own_schedule():
    """Optax 1290, 1634, 1426, 494: many optimizers have none, others call the mask otherwise, all follow the rate."""
    with pytest.raises(TypeError, match="weight_decay"):
        optax.radam(0.1, weight_decay=0.1)
    with pytest.raises(TypeError, match="weight_decay_mask"):
        optax.adamw(0.1, weight_decay_mask=None)
    stopped = optax.adamw(0.0, weight_decay=0.5)
    assert not np.any(_one_update(stopped)["dense"]["kernel"])
    for tx in (
        gradlab.chain(gradlab.radam(0.0), gradlab.subtract_decayed_weights(RATE * 0.5, mask="kernel")),
        gradlab.adamw(0.0, weight_decay=RATE * 0.5, mask="kernel", decay="independent"),
    ):
        _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        updates, _ = tx.update(GRADS, state, PARAMS)
        np.testing.assert_allclose(updates["dense"]["kernel"], -0.9 * 0.5)
        assert not np.any(updates["dense"]["bias"])


def test_schedules_add_shift_and_resume():
    """Optax 835, 1036, 415, 1744: functions; no offset to resume at, no warm-up, stable, decay."""
    with pytest.raises(TypeError, match="unsupported operand"):
        optax.linear_schedule(1.0, 0.0, 10) * 0.5
    resumed = gradlab.sgd((RATE * 0.5).shift(4))
    np.testing.assert_allclose(_one_update(resumed)["dense"]["bias"], -0.5 * 0.5 * 0.6)
    schedule = gradlab.wsd_schedule(0.0, 1.0, warmup_steps=2, stable_steps=4, decay_steps=4)
    assert [round(float(schedule(step)), 6) for step in (0, 1, 5, 8, 10)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_counts_have_stable_names():
    """Optax 206, 312, flax 4423: a second counter, and tree.get raises."""
    with pytest.raises(KeyError, match="Found multiple values for 'count'"):
        optax.tree.get(optax.adam(RATE).init(PARAMS), "count")
    for tx in (gradlab.adam(RATE), gradlab.adam(0.1)):
        _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        assert int(gradlab.counts(tx, state)["scale_by_adam.count"]) == 1


def test_errors_name_what_was_wrong():
    """Optax 291, 808, 271, equinox 607: errors from deep inside, about other things."""

    def attempts(lib):
        tx = lib.adam(0.1)
        params, grads = PARAMS["dense"], GRADS["dense"]
        state = tx.init(params)
        yield lambda: tx.update({"kernel": 0.0, "offset": 0.0}, state, params)
        yield lambda: tx.update(grads, params, state)
        yield lambda: tx.update(grads, lib.sgd(0.1).init(params), params)
        yield lambda: lib.chain(lib.adam)

    optax_says = [
        "pytree structure error",
        "object has no attribute 'mu'",
        "object has no attribute 'mu'",
        "no attribute",
    ]
    gradlab_says = [
        r"only gradients have \['offset'\], only parameters have \['bias'\]",
        "were `state` and `params` exchanged",
        "scale_by_adam got a state of type EmptyState",
        "call the factory first",
    ]
    for lib, messages in ((optax, optax_says), (gradlab, gradlab_says)):
        for attempt, message in zip(attempts(lib), messages, strict=True):
            with pytest.raises((AttributeError, TypeError, ValueError), match=message):
                attempt()
    with pytest.raises(ValueError, match="not enough values to unpack"):
        optax.chain().init(PARAMS)
    chex.assert_trees_all_equal(_one_update(gradlab.chain()), GRADS)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_a_gradient_may_be_missing(name):
    """Equinox 69, 364, 590, 896: filtered gradients have None where the parameters have arrays."""
    grads = {"dense": {"kernel": GRADS["dense"]["kernel"], "bias": None}}
    with pytest.raises((TypeError, ValueError)):
        optax.apply_updates(PARAMS, _one_update(getattr(optax, name)(0.1), grads))
    moved = gradlab.apply_updates(PARAMS, _one_update(getattr(gradlab, name)(0.1), grads))
    assert np.all(moved["dense"]["bias"] == 1.0) and np.all(moved["dense"]["kernel"] < 1.0)


def _shared_buffers(tx):
    params = jax.tree.map(jnp.array, PARAMS)
    arrays = [leaf for leaf in jax.tree.leaves((params, tx.init(params))) if isinstance(leaf, jax.Array)]
    return len(arrays) - len({array.unsafe_buffer_pointer() for array in arrays if array.size})


def test_parameters_and_a_new_state_can_be_donated_together():
    """Optax 1059, jax 19654: a state that holds the parameters themselves; a buffer cannot be donated twice."""
    assert _shared_buffers(optax.contrib.prodigy()) > 0
    shared = {name: _shared_buffers(build(name)) for name in NAMES}
    assert shared == dict.fromkeys(NAMES, 0)
    wrapped = gradlab.MultiSteps(gradlab.inject_hyperparams(gradlab.adamw)(RATE), 2)
    assert _shared_buffers(wrapped) == 0
    params = jax.tree.map(jnp.array, PARAMS)
    step = jax.jit(lambda params, state: wrapped.update(GRADS, state, params), donate_argnums=(0, 1))
    step(params, wrapped.init(params))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
