"""The algebra of chains: associative, with a neutral element; what reaches the stages; states by place or name."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlab
from gradlab.core.compose import chain, identity, named_chain

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": [jnp.array(0.5)]}
GRADS = [jax.tree.map(lambda p, t=t: jnp.cos(p + t), PARAMS) for t in range(3)]
STAGES = {
    "scale": gradlab.scale(-0.5),
    "adam": gradlab.scale_by_adam(),
    "trace": gradlab.trace(0.9, nesterov=True),
    "clip": gradlab.clip_by_global_norm(0.7),
    "decay": gradlab.add_decayed_weights(0.1),
    "optax": optax.scale_by_rms(),
    "identity": identity(),
}


def _run(tx):
    state, seen = tx.init(PARAMS), []
    for g in GRADS:
        updates, state = tx.update(g, state, PARAMS)
        seen.append(updates)
    return seen


stages = st.lists(st.sampled_from(sorted(STAGES)), max_size=4)


@settings(deadline=None, max_examples=12)
@given(stages, stages, stages)
def test_chains_are_associative_and_equal_one_long_chain(first, second, third):
    one, two, three = ([STAGES[name] for name in names] for names in (first, second, third))
    flat = _run(chain(*one, *two, *three))
    chex.assert_trees_all_close(_run(chain(chain(*one, *two), chain(*three))), flat, rtol=1e-12)
    chex.assert_trees_all_close(_run(chain(chain(*one), chain(*two, *three))), flat, rtol=1e-12)


@settings(deadline=None, max_examples=12)
@given(stages, st.integers(0, 4))
def test_identity_is_neutral_wherever_it_stands(names, place):
    plain = [STAGES[name] for name in names]
    chex.assert_trees_all_close(
        _run(chain(*plain[:place], identity(), *plain[place:])), _run(chain(*plain)), rtol=1e-12
    )


def test_order_matters_and_equals_optax():
    ours = chain(gradlab.clip_by_global_norm(0.5), gradlab.add_decayed_weights(0.1), gradlab.sgd(0.1))
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.1), optax.sgd(0.1))
    chex.assert_trees_all_close(_run(ours), _run(theirs), rtol=1e-12)
    swapped = chain(gradlab.add_decayed_weights(0.1), gradlab.clip_by_global_norm(0.5), gradlab.sgd(0.1))
    assert not np.allclose(_run(ours)[0]["w"], _run(swapped)[0]["w"])


def _listening_update(grads, state, params=None, *, value, **extra):
    return jax.tree.map(lambda g: g + value, grads), {"seen": tuple(sorted(extra)), **state}


def _difference_update(grads, state, params=None, *, grad, **extra):
    return jax.tree.map(jnp.subtract, grads, grad), state


def _empty_dict_init(params):
    return {}


def test_extra_arguments_reach_every_stage_of_nested_chains():
    def _adding_update(grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: g + value, grads), state

    adding = gradlab.transform(_empty_dict_init, _adding_update)
    tx = named_chain(("one", chain(adding, optax.identity())), ("two", adding))
    assert float(tx.update(jnp.array(1.0), tx.init(jnp.array(1.0)), value=jnp.array(10.0))[0]) == 21.0


def test_a_chain_supplies_the_raw_gradient_unless_the_caller_did():
    difference = gradlab.transform(_empty_dict_init, _difference_update)
    for build in (lambda *stages: chain(*stages), lambda *stages: named_chain(*zip("ab", stages, strict=True))):
        tx = build(gradlab.scale(3.0), chain(gradlab.identity(), difference))
        state = tx.init(jnp.array(2.0))
        assert float(tx.update(jnp.array(2.0), state)[0]) == 3 * 2.0 - 2.0
        assert float(tx.update(jnp.array(2.0), state, grad=jnp.array(5.0))[0]) == 3 * 2.0 - 5.0


def test_a_required_extra_argument_that_is_missing_is_a_type_error():
    tx = chain(gradlab.transform(_empty_dict_init, _listening_update))
    with pytest.raises(TypeError, match="value"):
        tx.update(jnp.array(1.0), tx.init(jnp.array(1.0)))


def test_the_empty_chain_passes_everything():
    updates, state = chain().update(GRADS[0], chain().init(PARAMS))
    chex.assert_trees_all_equal(updates, GRADS[0])
    assert state == ()


def test_a_named_chain_keeps_states_by_name_in_order():
    pairs = [("second", gradlab.trace(0.9)), ("first", gradlab.scale(-0.1))]
    ours, theirs = named_chain(*pairs), optax.named_chain(*pairs)
    chex.assert_trees_all_close(_run(ours), _run(theirs), rtol=1e-12)
    assert list(ours.init(PARAMS)) == ["second", "first"]
    chex.assert_trees_all_equal_structs(ours.init(PARAMS), theirs.init(PARAMS))


def test_a_state_of_another_optimizer_is_refused():
    tx = chain(gradlab.scale(1.0), gradlab.trace(0.9))
    with pytest.raises(ValueError, match="a chain of 2 transforms needs the tuple of 2 states .* got 3 states"):
        tx.update(GRADS[0], ((), (), ()))
    with pytest.raises(ValueError, match="got dict; was this state made by another optimizer"):
        tx.update(GRADS[0], {})
    with pytest.raises(ValueError, match=r"the state has no entry \['b'\]; it has \['a'\]"):
        named_chain(("a", identity()), ("b", identity())).update(GRADS[0], {"a": ()})
    with pytest.raises(ValueError, match=r"each name must occur once, but \['a'\]"):
        named_chain(("a", identity()), ("a", identity()))
