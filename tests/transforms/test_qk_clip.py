"""QK-clip against its oracle, on weights of every layout, and on an attention of Flax whose logits it really bounds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradlab
from gradlab import chain, hyperparams, muon, muonclip, qk_clip, sgd
from tests.oracles import muon_family as oracle

TAU = 5.0
LOGITS = np.array([2.0, 20.0, 5.0, -7.0, 500.0])  # heads: below, above, at tau, negative, far above


def normal(shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def attention(seed=0, inputs=4, heads=5, size=3, names=("query", "key", "value")):
    make = lambda index: {
        "kernel": normal((inputs, heads, size), seed + index),
        "bias": normal((heads, size), seed + 10 + index),
    }
    return {name: make(index) for index, name in enumerate(names)}


def model():
    return {"encoder": {"block_0": attention(), "block_1": attention(40)}, "head": {"kernel": normal((4, 2))}}


def step(tx, params, grads, **extra):
    updates, _ = tx.update(grads, tx.init(params), params, **extra)
    return updates, optax.apply_updates(params, updates)


def test_new_weights_are_the_loop_in_numpy():
    """What is scaled is the weight after the step, not the step and not the weight before it."""
    params = model()
    grads = jax.tree.map(lambda p: normal(p.shape, 7), params)
    logits = {"encoder/block_0": LOGITS, "encoder/block_1": LOGITS[::-1]}
    _, new = step(chain(sgd(0.1), qk_clip(TAU)), params, grads, max_logits=logits)
    plain = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    for block, largest in (("block_0", LOGITS), ("block_1", LOGITS[::-1])):
        ours, unclipped = new["encoder"][block], plain["encoder"][block]
        for leaf in ("kernel", "bias"):
            expected = oracle.qk_clipped([unclipped[side][leaf] for side in ("query", "key")], largest, TAU)
            for side, value in zip(("query", "key"), expected, strict=True):
                np.testing.assert_allclose(ours[side][leaf], value, rtol=1e-12)
            np.testing.assert_array_equal(ours["value"][leaf], unclipped["value"][leaf])
    np.testing.assert_array_equal(new["head"]["kernel"], plain["head"]["kernel"])


def test_heads_at_or_below_tau_and_modules_without_logits_keep_their_step_to_the_bit():
    params = model()
    grads = jax.tree.map(lambda p: normal(p.shape, 7) * 1e-3, params)
    updates, _ = step(qk_clip(TAU), params, grads, max_logits={"encoder/block_0": LOGITS})
    kept, ours = [0, 2, 3], updates["encoder"]["block_0"]["query"]["kernel"]
    np.testing.assert_array_equal(ours[:, kept], grads["encoder"]["block_0"]["query"]["kernel"][:, kept])
    assert np.min(np.abs(ours[:, [1, 4]])) > 1e-3
    np.testing.assert_array_equal(
        updates["encoder"]["block_1"]["key"]["kernel"], grads["encoder"]["block_1"]["key"]["kernel"]
    )
    nothing, _ = step(qk_clip(TAU), params, grads, max_logits={})
    jax.tree.map(np.testing.assert_array_equal, nothing, grads)


@pytest.mark.parametrize(
    "logits",
    [
        {"encoder": {"block_0": LOGITS}},
        {"encoder": {"block_0": {"max_logits": (LOGITS,)}}},
        {"encoder": {"block_0": {"max_logits": (LOGITS - 1e3, LOGITS), "other": LOGITS - 3}}},
    ],
    ids=["tree", "sown", "sown twice"],
)
def test_logits_may_be_a_tree_or_what_was_sown(logits):
    params = model()
    zero = jax.tree.map(jnp.zeros_like, params)
    expected, _ = step(qk_clip(TAU), params, zero, max_logits={"encoder/block_0": LOGITS})
    jax.tree.map(np.testing.assert_array_equal, step(qk_clip(TAU), params, zero, max_logits=logits)[0], expected)


def test_an_attention_may_be_the_whole_model():
    params = attention()
    zero = jax.tree.map(jnp.zeros_like, params)
    for logits in (LOGITS, {"max_logits": (LOGITS,)}):
        _, new = step(qk_clip(TAU), params, zero, max_logits=logits)
        np.testing.assert_allclose(new["key"]["kernel"][:, 1], 0.5 * params["key"]["kernel"][:, 1], rtol=1e-12)


def test_other_names_fused_heads_and_scanned_layers():
    params = {"attn": attention(names=("q_proj", "k_proj", "v_proj"))}
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = qk_clip(TAU, query="(q|w_q)_proj", key="k_proj")
    _, expected = step(tx, params, zero, max_logits={"attn": LOGITS})
    assert np.any(expected["attn"]["q_proj"]["kernel"] != params["attn"]["q_proj"]["kernel"])
    fused = jax.tree.map(lambda p: p.reshape(*p.shape[:-2], 15), params)
    _, new = step(tx, fused, jax.tree.map(jnp.zeros_like, fused), max_logits={"attn": LOGITS})
    reshaped = jax.tree.map(lambda p: p.reshape(*p.shape[:-2], 15), expected)
    jax.tree.map(np.testing.assert_array_equal, new, reshaped)
    for one in (params, fused):
        layers = jax.tree.map(lambda p: jnp.stack([p, 2 * p, 3 * p]), one)
        logits = np.stack([LOGITS, LOGITS[::-1], 0 * LOGITS])
        _, new = step(tx, layers, jax.tree.map(jnp.zeros_like, layers), max_logits={"attn": logits})
        for index in range(3):
            layer = jax.tree.map(lambda p, index=index: p[index], layers)
            _, alone = step(tx, layer, jax.tree.map(jnp.zeros_like, layer), max_logits={"attn": logits[index]})
            jax.tree.map(lambda x, y, index=index: np.testing.assert_array_equal(x[index], y), new, alone)


def test_a_name_must_match_as_a_whole_and_layers_must_be_as_many_as_their_logits():
    params = attention(names=("query", "key", "key_scale"))
    _, new = step(qk_clip(TAU), params, jax.tree.map(jnp.zeros_like, params), max_logits=LOGITS)
    np.testing.assert_array_equal(new["key_scale"]["kernel"], params["key_scale"]["kernel"])
    layers = jax.tree.map(lambda p: jnp.stack([p, p, p]), params)
    with pytest.raises(ValueError, match=r"'' has the shape \(1, 5\), which does not fit parameter 'key/bias'"):
        step(qk_clip(TAU), layers, layers, max_logits=LOGITS[None])


def test_logits_that_are_not_finite_show_and_masked_heads_do_not():
    params = {"attn": attention(heads=3)}
    zero = jax.tree.map(jnp.zeros_like, params)
    _, new = step(qk_clip(TAU), params, zero, max_logits={"attn": jnp.array([jnp.inf, jnp.nan, -jnp.inf])})
    for leaf in jax.tree.leaves([new["attn"]["query"], new["attn"]["key"]]):
        assert np.isnan(leaf[..., :2, :]).all() and np.isfinite(leaf[..., 2, :]).all()


def test_low_precision_is_kept_and_a_frozen_query_stays():
    params = {"attn": jax.tree.map(lambda p: p.astype(jnp.bfloat16), attention())}
    updates = jax.tree.map(jnp.zeros_like, params)
    updates["attn"]["query"]["kernel"] = None
    got, _ = qk_clip(TAU).update(updates, optax.EmptyState(), params, max_logits={"attn": LOGITS})
    assert got["attn"]["query"]["kernel"] is None and got["attn"]["key"]["kernel"].dtype == jnp.bfloat16
    half = params["attn"]["key"]["kernel"][:, 1] * 0.5
    np.testing.assert_allclose((params["attn"]["key"]["kernel"] + got["attn"]["key"]["kernel"])[:, 1], half, rtol=1e-2)


def test_tau_is_a_number_of_the_optimizer_and_lanes_may_differ():
    params = {"attn": attention()}
    zero = jax.tree.map(jnp.zeros_like, params)
    assert hyperparams(qk_clip(TAU)) == {"tau": TAU}
    lanes = gradlab.population(qk_clip, tau=np.array([2.0, 30.0]))
    batched = jax.vmap(lambda tx: step(tx, params, zero, max_logits={"attn": LOGITS})[1])(lanes)
    for index, tau in enumerate((2.0, 30.0)):
        _, alone = step(qk_clip(tau), params, zero, max_logits={"attn": LOGITS})
        jax.tree.map(lambda x, y, i=index: np.testing.assert_allclose(x[i], y, rtol=1e-12), batched, alone)


def attend(query, key, value, mask=None, module=None):
    """Attention that sows the largest logit of every head."""
    logits = jnp.einsum("...qhd,...khd->...hqk", query, key) / query.shape[-1] ** 0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    if module is not None:
        over_all_but_heads = tuple(axis for axis in range(logits.ndim) if axis != logits.ndim - 3)
        module.sow("intermediates", "max_logits", jnp.max(logits, axis=over_all_but_heads))
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(logits), value)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[..., 0])
        for _ in range(2):
            block = nn.MultiHeadDotProductAttention(2, qkv_features=8, attention_fn=attend, param_dtype=jnp.float64)
            x = x + block(nn.LayerNorm(param_dtype=jnp.float64)(x), mask=mask, sow_weights=True)
        return nn.Dense(1, param_dtype=jnp.float64)(x)


def test_an_attention_of_flax_has_its_logits_clipped():
    x, network = normal((3, 6, 4)), Transformer()
    params = jax.jit(network.init)(jax.random.key(1), x)["params"]
    for index, scale in enumerate((30.0, 1.0)):
        block = params[f"MultiHeadDotProductAttention_{index}"]
        block["query"]["kernel"] = block["query"]["kernel"].at[:, 0].multiply(scale)
    sown = jax.jit(lambda params: network.apply({"params": params}, x, mutable="intermediates"))

    def loss(params):
        y, state = sown(params)
        return jnp.mean(y**2), state["intermediates"]

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    largest = logits["MultiHeadDotProductAttention_0"]["max_logits"][0]
    tau = 3.0
    assert largest[0] > 3 * tau and largest[1] < tau
    tx = muonclip(0.0, tau=tau)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, max_logits=logits)
    clipped = sown(optax.apply_updates(params, updates))[1]["intermediates"]
    after = clipped["MultiHeadDotProductAttention_0"]["max_logits"][0]
    np.testing.assert_allclose(after, [tau, largest[1]], rtol=1e-10)


def test_training_keeps_the_logits_near_tau_which_without_clipping_grow():
    x, network = normal((3, 6, 4)), Transformer()
    start = jax.jit(network.init)(jax.random.key(1), x)["params"]

    def largest_of_each_step(tx):
        def train(carry, _):
            params, state = carry

            def loss(params):
                y, sown = network.apply({"params": params}, x, mutable="intermediates")
                return -jnp.mean(y**2), sown["intermediates"]

            grads, logits = jax.grad(loss, has_aux=True)(params)
            updates, state = tx.update(grads, state, params, max_logits=logits)
            return (optax.apply_updates(params, updates), state), jnp.max(jnp.stack(jax.tree.leaves(logits)))

        return jax.lax.scan(train, (start, tx.init(start)), None, length=60)[1]

    layout = {"muon_weight_dimension_numbers": "flax", "consistent_rms": 0.2, "bias_correction": False}
    free, bounded = largest_of_each_step(muon(0.05, **layout)), largest_of_each_step(muonclip(0.05, tau=3.0))
    assert jnp.max(free) > 10 and jnp.max(bounded[5:]) < 5


def test_attention_of_nnx_is_clipped_too():
    module = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=nnx.Rngs(0))
    before = jnp.array(module.query.kernel[...])
    optimizer = gradlab.NNXOptimizer(module, chain(gradlab.scale(0.0), qk_clip(TAU)), wrt=nnx.Param)
    grads = jax.tree.map(jnp.zeros_like, nnx.state(module, nnx.Param))
    optimizer.update(module, grads, max_logits=jnp.array([4 * TAU, 1.0]))
    np.testing.assert_allclose(module.query.kernel[...][:, 0], 0.5 * before[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(module.query.kernel[...][:, 1], before[:, 1])


def test_muonclip_below_tau_is_muon():
    params = model()
    grads = jax.tree.map(lambda p: normal(p.shape, 7), params)
    layout = {"muon_weight_dimension_numbers": "flax", "consistent_rms": 0.2, "bias_correction": False}
    expected, _ = step(muon(0.1, weight_decay=0.1, **layout), params, grads)
    logits = {"encoder/block_0": jnp.ones(5)}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12),
        step(muonclip(0.1, weight_decay=0.1), params, grads, max_logits=logits)[0],
        expected,
    )
    assert hyperparams(muonclip(0.1))["tau"] == 100.0


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (None, TypeError, r"max_logits=\{path of"),
        ({"encoder/block_2": LOGITS}, ValueError, r"'encoder/block_2'.*no 'query' and 'key'.*'encoder/block_1'"),
        ({"head": LOGITS}, ValueError, "'head'.*no 'query' and 'key'"),
        ({"half": LOGITS}, ValueError, "'half'.*no 'query' and 'key'"),
        ({"encoder/block_1": LOGITS[:3]}, ValueError, r"'encoder/block_1' has the shape \(3,\).*block_1/(key|query)/"),
        ({"encoder/block_1": 3.0}, ValueError, r"'encoder/block_1' has the shape \(\)"),
        ({"encoder/block_1": LOGITS[None]}, ValueError, r"'encoder/block_1' has the shape \(1, 5\)"),
    ],
)
def test_logits_that_do_not_fit_are_refused_by_path(logits, error, message):
    params = model() | {"half": attention(names=("query", "value"))}
    with pytest.raises(error, match=message):
        qk_clip(TAU).update(params, optax.EmptyState(), params, max_logits=logits)


def test_impossible_values_and_missing_parameters_are_refused():
    with pytest.raises(ValueError, match="tau"):
        qk_clip(0.0)
    with pytest.raises(ValueError, match="no regular expression"):
        qk_clip(query="(")
    with pytest.raises(ValueError, match="qk_clip needs the parameters"):
        qk_clip().update(model(), optax.EmptyState(), max_logits={})
