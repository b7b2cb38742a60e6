"""Both line searches: Optax's numbers step by step, the conditions they promise, lanes, failures, what they ask for."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.core.across import vdot
from gradlab.transforms.line_search import line
from tests.descents import descend, logistic, quadratic, regression, rosenbrock, valley

BACKTRACKING, ZOOM = "scale_by_backtracking_linesearch", "scale_by_zoom_linesearch"
MODES = [
    (ZOOM, {"max_linesearch_steps": 15}),
    (ZOOM, {"max_linesearch_steps": 15, "initial_guess_strategy": "one"}),
    (ZOOM, {"max_linesearch_steps": 15, "max_learning_rate": 0.01, "approx_dec_rtol": None, "tol": 1e-3}),
    (ZOOM, {"max_linesearch_steps": 10, "curv_rtol": 0.1, "increase_factor": 3.0, "slope_rtol": 0.4}),
    (ZOOM, {"max_linesearch_steps": 20, "curv_rtol": 1e-6, "stepsize_precision": 1e-2}),
    (BACKTRACKING, {"max_backtracking_steps": 20, "decrease_factor": 0.5}),
    (BACKTRACKING, {"max_backtracking_steps": 40, "increase_factor": float("inf"), "store_grad": True}),
    (BACKTRACKING, {"max_backtracking_steps": 12, "rtol": 0.3, "decrease_factor": 0.5}),
    (BACKTRACKING, {"max_backtracking_steps": 3, "atol": 1e-3, "rtol": 1e-3, "max_learning_rate": 0.1}),
]


def steepest(library, search, **options):
    return library.chain(library.sgd(1.0), getattr(library, search)(**options))


@pytest.mark.parametrize("index, loss", [(i, rosenbrock) for i in range(len(MODES))] + [(1, logistic), (6, logistic)])
def test_points_and_states_are_those_of_optax(index, loss):
    search, options = MODES[index]
    start = valley(2) if loss is rosenbrock else regression()
    ours = descend(steepest(gradlab, search, **options), loss, start)
    optaxs = descend(steepest(optax, search, **options), loss, start)
    chex.assert_trees_all_close(ours[0], optaxs[0], rtol=1e-10, atol=1e-10)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(optaxs[1])
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])
    mine, theirs = ours[1][-1], optaxs[1][-1]
    finite = np.isfinite(mine.info.decrease_error)  # where nothing was finite, Optax keeps no number to go on with
    assert np.mean(finite) > 0.05
    for name in ("learning_rate", "value"):
        np.testing.assert_allclose(getattr(mine, name)[finite], getattr(theirs, name)[finite], rtol=1e-8)
    np.testing.assert_array_equal(mine.info.num_linesearch_steps[finite], theirs.info.num_linesearch_steps[finite])


def one_search(search, loss, params, updates, **options):
    """The state after one search along ``updates``, with the gradient that the loss has."""
    tx = getattr(gradlab, search)(**options)
    value, grad = jax.value_and_grad(loss)(params)
    scaled, state = tx.update(updates, tx.init(params), params, value=value, grad=grad, value_fn=loss)
    return scaled, state


def wavy(x):
    return jnp.sum(jnp.cosh(x / 3) + 0.5 * jnp.sin(3 * x)) + 0.1 * jnp.prod(x)


numbers = st.floats(-4, 4).map(lambda x: round(x, 3))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(start=st.tuples(numbers, numbers), tilt=st.floats(-1.2, 1.2), length=st.floats(0.01, 100))
def test_strong_wolfe_conditions_hold_where_a_zoom_search_ends_without_error(start, tilt, length):
    params = jnp.array(start)
    grad = jax.grad(wavy)(params)
    hypothesis.assume(jnp.linalg.norm(grad) > 1e-3)
    turn = jnp.array([[jnp.cos(tilt), -jnp.sin(tilt)], [jnp.sin(tilt), jnp.cos(tilt)]])
    direction = -length * turn @ grad  # less than a right angle from the gradient
    options = {"max_linesearch_steps": 60, "slope_rtol": 1e-3, "curv_rtol": 0.5, "approx_dec_rtol": None}
    updates, state = one_search(ZOOM, wavy, params, direction, **options)
    slope, t = grad @ direction, float(state.learning_rate)
    end = params + updates
    np.testing.assert_allclose(updates, t * direction, rtol=1e-12)
    assert wavy(end) <= wavy(params) + 1e-3 * t * slope + 1e-12
    np.testing.assert_allclose(state.value, wavy(end), rtol=1e-12)
    np.testing.assert_allclose(state.grad, jax.grad(wavy)(end), rtol=1e-9, atol=1e-12)
    if state.info.curvature_error == 0:
        assert abs(jax.grad(wavy)(end) @ direction) <= 0.5 * abs(slope) + 1e-9
    else:
        assert float(state.info.num_linesearch_steps) == 60 or t > 0  # the interval became too short


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(start=st.tuples(numbers, numbers), length=st.floats(0.01, 100), shrink=st.sampled_from([0.3, 0.7]))
def test_a_backtracking_search_takes_the_first_step_of_sufficient_decrease(start, length, shrink):
    params = jnp.array(start)
    grad = jax.grad(wavy)(params)
    hypothesis.assume(jnp.linalg.norm(grad) > 1e-3)
    direction, slope = -length * grad, -length * float(grad @ grad)
    options = {"max_backtracking_steps": 60, "slope_rtol": 0.1, "decrease_factor": shrink}
    _, state = one_search(BACKTRACKING, wavy, params, direction, **options)
    falls_short = lambda t: wavy(params + t * direction) > wavy(params) + 0.1 * t * slope
    tries = int(state.info.num_linesearch_steps)
    steps = shrink ** np.arange(tries)
    np.testing.assert_allclose(state.learning_rate, steps[-1], rtol=1e-12)
    assert [bool(falls_short(t)) for t in steps] == [True] * (tries - 1) + [False]


def test_a_zoom_search_of_a_parabola_interpolates_to_its_minimum():
    """Steepest descent on a parabola that asks for no remaining slope: the second or third try is exact."""
    loss = quadratic()
    params = jnp.ones(6)
    direction = -0.5 * jax.grad(loss)(params)
    options = {"max_linesearch_steps": 20, "curv_rtol": 1e-8}
    _, state = one_search(ZOOM, loss, params, direction, **options)
    exact = -(jax.grad(loss)(params) @ direction) / (direction @ loss.matrix @ direction)
    np.testing.assert_allclose(state.learning_rate, exact, rtol=1e-9)
    assert int(state.info.num_linesearch_steps) <= 3


@pytest.mark.parametrize("search", [ZOOM, BACKTRACKING])
def test_lanes_search_for_themselves(search):
    tx = steepest(gradlab, search, **dict([MODES[0], MODES[5]][search == BACKTRACKING][1]))
    starts = jnp.array([[-1.2, 1.0], [0.3, 2.0], [1.0, 1.0], [5.0, -3.0]])
    lanes, states = jax.vmap(lambda start: descend(tx, rosenbrock, start, 5))(starts)
    for index, start in enumerate(starts):
        alone, state = descend(tx, rosenbrock, start, 5)
        np.testing.assert_allclose(lanes[index], alone, rtol=1e-9, atol=1e-12)
        count = state[-1].info.num_linesearch_steps
        np.testing.assert_array_equal(states[-1].info.num_linesearch_steps[index], count)
    assert len(np.unique(states[-1].info.num_linesearch_steps[:, 0])) > 1


def cliff(x):
    return jnp.where(x > 0, x - jnp.log(jnp.where(x > 0, x, 1)), jnp.nan)


@pytest.mark.parametrize("search, options", [MODES[0], MODES[5]], ids=[ZOOM, BACKTRACKING])
def test_where_the_loss_is_not_a_number_steps_become_shorter_until_it_is(search, options):
    _, state = one_search(search, cliff, jnp.float64(3.0), jnp.float64(-100.0), **options)
    assert 0 < float(state.learning_rate) < 0.03
    assert float(state.value) < cliff(3.0)


@pytest.mark.parametrize("search, options", [MODES[0], MODES[5], MODES[6]], ids=["zoom", "forgetful", "storing"])
def test_where_every_step_fails_the_parameters_stay_and_the_next_search_starts_anew(search, options):
    tx = getattr(gradlab, search)(**options)
    broken = lambda x: jnp.where(x == 3.0, x**2, jnp.nan)
    params, downhill, known = jnp.float64(3.0), jnp.float64(-6.0), {"value": 9.0, "grad": jnp.float64(6.0)}
    updates, state = tx.update(downhill, tx.init(params), params, value_fn=broken, **known)
    assert float(updates) == 0 and float(state.learning_rate) == 0
    assert float(state.value) == 9.0 and (state.grad is None or float(state.grad) == 6.0)
    updates, state = tx.update(downhill, state, params, value_fn=lambda x: x**2, **known)
    assert (params + updates) ** 2 < 9


def test_zoom_reports_an_ascent_direction_and_optax_does_the_same():
    params, uphill = jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])
    loss = lambda x: jnp.sum(x**2)
    outcomes = []
    for library in (gradlab, optax):
        tx = library.scale_by_zoom_linesearch(8)
        known = {"value": loss(params), "grad": 2 * params, "value_fn": loss}
        outcomes.append(tx.update(uphill, tx.init(params), params, **known))
    chex.assert_trees_all_close(*outcomes, rtol=1e-12)
    assert float(outcomes[0][1].info.decrease_error) > 0


@pytest.mark.parametrize("search", [ZOOM, BACKTRACKING])
def test_a_failed_search_says_so_if_asked(search, capfd):
    for uphill, reports in ((1.0, 1), (-1.0, 0)):
        known = {"value": 1.0, "grad": jnp.float64(2.0), "value_fn": jnp.square}
        tx = getattr(gradlab, search)(4, verbose=True)
        jax.block_until_ready(tx.update(jnp.float64(uphill), tx.init(1.0), jnp.float64(1.0), **known))
        jax.effects_barrier()
        assert capfd.readouterr().out.count(f"{search} found no") == reports


def data_loss(params, data, *, power=2.0):
    return jnp.sum(jnp.abs(params - data) ** power)


@pytest.mark.parametrize("search", [ZOOM, BACKTRACKING])
def test_the_value_function_gets_the_extra_arguments_that_it_names_and_no_others(search):
    params, data = jnp.zeros(2), jnp.array([1.0, -2.0])
    given = {"data": data, "power": 4.0, "step": 3, "something_else": jnp.ones(7)}
    outcomes = []
    for value_fn, more in ((data_loss, given), (lambda x: data_loss(x, data, power=4.0), {})):
        tx = getattr(gradlab, search)(15)
        value, grad = jax.value_and_grad(data_loss)(params, data, power=4.0)
        outcomes.append(tx.update(-grad, tx.init(params), params, value=value, grad=grad, value_fn=value_fn, **more))
    chex.assert_trees_all_close(*outcomes, rtol=1e-12)
    assert 0 < float(outcomes[0][1].learning_rate) < 1


@pytest.mark.parametrize("search", [ZOOM, BACKTRACKING])
def test_what_is_missing_is_named(search):
    tx, params = getattr(gradlab, search)(15), jnp.ones(2)
    state, known = tx.init(params), {"value": 1.0, "grad": params, "value_fn": jnp.sum}
    for name in known:
        with pytest.raises(TypeError, match=f"{search} needs `{name}`: call tx.update"):
            tx.update(params, state, params, **{key: value for key, value in known.items() if key != name})
    with pytest.raises(ValueError, match=f"{search} needs the parameters"):
        tx.update(params, state, **known)
    with pytest.raises(ValueError, match="`grad` and the updates have different trees.*'a'"):
        tx.update(params, state, params, **(known | {"grad": {"a": params}}))
    with pytest.raises(TypeError, match="one number|scalar"):
        tx.update(params, state, params, **(known | {"value_fn": jnp.square}))


def test_bad_numbers_are_refused_by_name():
    with pytest.raises(ValueError, match="curv_rtol"):
        gradlab.scale_by_zoom_linesearch(5, curv_rtol=-1.0)
    with pytest.raises(ValueError, match="decrease_factor"):
        gradlab.scale_by_backtracking_linesearch(5, decrease_factor=-1.0)
    with pytest.raises(ValueError, match="initial_guess_strategy 'two'; .*'one'"):
        gradlab.scale_by_zoom_linesearch(5, initial_guess_strategy="two")


@pytest.mark.parametrize("search", [ZOOM, BACKTRACKING])
@pytest.mark.parametrize("dtype, scalar", [("bfloat16", "float32"), ("float32", "float32"), ("complex64", "float32")])
def test_scalars_are_float32_or_wider(search, dtype, scalar):
    params = {"a": jnp.full(3, 2.0, dtype), "b": None}
    loss = lambda tree: jnp.sum(jnp.abs(tree["a"]) ** 2).astype(scalar)
    tx = getattr(gradlab, search)(10)
    known = {"value": loss(params), "grad": {"a": 2 * params["a"], "b": None}, "value_fn": loss}
    updates, state = tx.update({"a": -2 * params["a"], "b": None}, tx.init(params), params, **known)
    assert updates["a"].dtype == dtype and state.learning_rate.dtype == state.value.dtype == scalar
    np.testing.assert_allclose(np.asarray(params["a"] + updates["a"], np.complex64), 0, atol=1.5)
    assert float(state.value) < float(known["value"])


def test_value_and_gradient_come_from_the_state_once_a_search_has_left_them_there():
    calls = []

    def loss(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(x**4)

    params = jnp.array([1.0, -2.0])
    tx = gradlab.chain(gradlab.sgd(0.1), gradlab.scale_by_zoom_linesearch(15))
    state = tx.init(params)
    evaluate = jax.jit(gradlab.value_and_grad_from_state(loss))
    value, grad = evaluate(params, state=state)
    jax.effects_barrier()
    assert len(calls) == 1 and float(value) == 17 and grad.tolist() == [4.0, -32.0]
    updates, state = tx.update(grad, state, params, value=value, value_fn=lambda x: jnp.sum(x**4))
    params = params + updates
    value, grad = evaluate(params, state=state)
    jax.effects_barrier()
    assert len(calls) == 1
    chex.assert_trees_all_close((value, grad), (jnp.sum(params**4), 4 * params**3), rtol=1e-12)


def test_a_state_without_gradient_is_an_error_with_a_remedy():
    tx = gradlab.scale_by_backtracking_linesearch(5)
    with pytest.raises(ValueError, match="store_grad=True"):
        gradlab.value_and_grad_from_state(jnp.sum)(jnp.ones(2), state=tx.init(jnp.ones(2)))


def test_the_inner_product_is_real_and_leaves_none_out():
    a = {"x": jnp.array([1 + 2j, 3.0]), "y": None, "z": jnp.array(2.0, jnp.bfloat16)}
    b = {"x": jnp.array([2 - 1j, 1j]), "y": jnp.ones(2), "z": jnp.array(3.0, jnp.bfloat16)}
    np.testing.assert_allclose(vdot(a, b), np.vdot([1 + 2j, 3.0], [2 - 1j, 1j]).real + 6)
    assert vdot({}, {}).shape == ()


def test_a_line_is_the_loss_along_the_updates():
    updates, start = jnp.array([1.0, -1.0]), jnp.array([2.0, 3.0])
    path = line("stage", updates, start, {}, value=1.0, grad=updates, value_fn=rosenbrock)
    along = lambda t: rosenbrock(start + t * updates)
    value, slope, grad = path.value_slope_grad(jnp.float64(0.3))
    np.testing.assert_allclose([value, slope], [along(0.3), jax.grad(along)(0.3)], rtol=1e-12)
    np.testing.assert_allclose(grad, jax.grad(rosenbrock)(jnp.array([2.3, 2.7])), rtol=1e-12)
    np.testing.assert_allclose(path.value(jnp.float64(0.3)), along(0.3), rtol=1e-12)
