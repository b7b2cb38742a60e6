"""A state of one storage as another keeps it, and what an optimizer says of a state of another storage."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.core.storage import BFloat16, Blocks, Factored, Int8, StoredState, decoded_state

PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32), "b": jnp.ones(6, jnp.float32)}
GRADS = jax.tree.map(lambda p: p + 0.1, PARAMS)
STORAGES = {
    "none": None,
    "float32": "float32",
    "bfloat16": "bfloat16",
    "stochastic": BFloat16(stochastic=True),
    "residual": "bfloat16_residual",
    "int8": Int8(block=8, least=0),
    "factored": Factored(least=2),
}
FACTORIES = {"adamw": gradlab.adamw, "muon": gradlab.muon}


@functools.cache
def after_a_step(name, storage):
    tx = FACTORIES[name](1e-2, storage=STORAGES[storage])
    return tx, tx.update(GRADS, tx.init(PARAMS), PARAMS)[1]


def far(state, other):
    """The largest difference of two states, as a share of the largest number in each array."""
    pairs = zip(*(jax.tree.leaves(decoded_state(one)) for one in (state, other)), strict=True)
    wide = lambda x: np.asarray(x, np.complex128)
    return max(float(np.max(np.abs(wide(a) - wide(b))) / np.max(np.abs(wide(b)))) for a, b in pairs)


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("target", STORAGES)
def test_a_state_goes_on_in_every_other_storage(name, target):
    tx, own = after_a_step(name, target)
    exact = ("none", "float32")
    share = 1e-6 if target in exact else {"residual": 1e-4, "int8": 0.1}.get(target, 2**-7)
    for source in STORAGES:
        _, state = after_a_step(name, source)
        restored = gradlab.restore_as(tx, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(restored, own)
        if target != "factored":
            assert far(restored, state) <= share
        elif source in exact:
            assert far(restored, own) <= 1e-5
        _, after = tx.update(GRADS, restored, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, own)


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("target", [name for name in STORAGES if name != "none"])
def test_a_state_of_another_storage_is_refused(name, target):
    tx, own = after_a_step(name, target)
    kinds = lambda state: (jax.tree.structure(state), [leaf.dtype for leaf in jax.tree.leaves(state)])
    refused = 0
    for source in STORAGES:
        _, state = after_a_step(name, source)
        if kinds(state) != kinds(own):
            refused += 1
            with pytest.raises(ValueError, match=r"; make it one with gradlab.restore_as\(tx, state, params\)"):
                jax.eval_shape(tx.update, GRADS, state, PARAMS)
    assert refused >= 5  # of 6; muon has nothing that may be factored, which is then float32


def test_what_is_not_as_it_should_be_is_named():
    refused = {
        ("int8", "none"): "storage=Int8(block=8, least=0) got the state of one without, a tuple",
        ("int8", "bfloat16"): "needs a key to round by chance, but the state has none",
        ("bfloat16", "int8"): "storage='bfloat16' needs no key, but the state has one",
        ("int8", "stochastic"): "keeps 'mu' as Blocks, but the state has bfloat16 there",
    }
    for (target, source), message in refused.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            after_a_step("adamw", target)[0].update(GRADS, after_a_step("adamw", source)[1], PARAMS)


def test_the_key_is_of_the_new_seed_and_the_rounding_by_chance():
    state = gradlab.sgd(0.1, momentum=0.9).init(jnp.zeros(64))
    state = jax.tree.map(lambda trace: trace + 1 + 2**-12, state)
    lanes = gradlab.population(
        lambda seed: gradlab.store(gradlab.sgd(0.1, momentum=0.9), Int8(least=0), seed=seed), seed=np.arange(2)
    )
    restored = jax.vmap(lambda tx: gradlab.restore_as(tx, state, jnp.zeros(64)))(lanes)
    codes = restored.inner_state[0].trace.codes
    assert jnp.any(restored.rng_key[0] != restored.rng_key[1]) and jnp.any(codes[0] != codes[1])


def test_stored_states_are_found_inside_and_complex_arrays_in_parts():
    params = {"w": PARAMS["w"] + 1j * PARAMS["w"], "b": PARAMS["b"]}
    make = lambda storage: gradlab.chain(
        gradlab.clip(1.0), gradlab.masked(gradlab.adam(0.1, storage=storage), {"w": True, "b": False})
    )
    plain, tx = make(None), make(Int8(least=0))
    state = plain.update(params, plain.init(params), params)[1]
    restored = gradlab.restore_as(tx, state, params)
    assert isinstance(restored[1].inner_state, StoredState)
    assert isinstance(restored[1].inner_state.inner_state[0].mu["w"].imag, Blocks)
    assert far(restored, state) <= 0.1
    assert far(gradlab.restore_as(plain, restored, params), restored) == 0


def test_the_state_of_another_optimizer_or_of_other_parameters_is_refused():
    tx, state = after_a_step("adamw", "int8")
    with pytest.raises(ValueError, match="only those of this optimizer have .*'0/nu/w'"):
        gradlab.restore_as(tx, after_a_step("muon", "none")[1], PARAMS)
    with pytest.raises(ValueError, match=r"'0/mu/w' is an array of shape \(6, 5\) in the state, but .* \(6, 4\)"):
        gradlab.restore_as(tx, state, {**PARAMS, "w": PARAMS["w"][:, :4]})
    short = {"w": PARAMS["w"].astype(jnp.bfloat16)}
    eight, sixteen = (gradlab.with_residuals(gradlab.sgd(0.1), bits=bits) for bits in (8, 16))
    with pytest.raises(ValueError, match=r"'rng_key' is an array of shape \(2,\) in the state, but None"):
        gradlab.restore_as(sixteen, eight.init(short), short)
