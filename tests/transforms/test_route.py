"""Different treatment for different parameters: by pattern, tree or function; states; what stages inside see."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

import gradlab
from gradlab.transforms.route import freeze, masked, partition, selective_transform, set_to_zero
from gradlab.transforms.select import by_path, mask_leaves

PARAMS = {
    "embed": {"table": jnp.array([[1.0, 2.0], [3.0, 4.0]])},
    "dense": {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.array([2.0])},
    "head": [jnp.array([5.0]), jnp.array(6.0)],
}
GRADS = jax.tree.map(lambda p: p / 2 + 1, PARAMS)
MASK = {"embed": True, "dense": {"kernel": True, "bias": False}, "head": False}
LABELS = {"embed": "slow", "dense": {"kernel": "fast", "bias": "slow"}, "head": "fast"}
RULES = by_path(("embed|bias$", "slow"), (".", "fast"))


def _run(tx, steps=3, params=PARAMS, grads=GRADS):
    state, seen = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        seen.append(updates)
    return seen, state


def _same_run(ours, theirs):
    (our_seen, our_state), (their_seen, their_state) = _run(ours), _run(theirs)
    chex.assert_trees_all_close(our_seen, their_seen, rtol=1e-10)
    chex.assert_trees_all_equal_structs(our_state, their_state)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-10)
    continued, _ = ours.update(GRADS, their_state, PARAMS)
    chex.assert_trees_all_close(continued, theirs.update(GRADS, our_state, PARAMS)[0], rtol=1e-10)


def _mask_of(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: "embed" in str(path) or "kernel" in str(path), params)


def _labels_of(params):
    fast = lambda path: "kernel" in str(path) or "head" in str(path)
    return jax.tree_util.tree_map_with_path(lambda path, _: "fast" if fast(path) else "slow", params)


@pytest.mark.parametrize(
    "mask", ["embed|kernel", ["^embed", "kernel$"], MASK, _mask_of], ids=["one", "two", "tree", "function"]
)
def test_masked_equals_optax_however_the_mask_is_given(mask):
    theirs = MASK if mask is MASK else _mask_of(PARAMS)
    _same_run(masked(gradlab.adam(0.1), mask), optax.masked(optax.adam(0.1), theirs))


@pytest.mark.parametrize("labels", [LABELS, RULES, lambda params: LABELS], ids=["tree", "patterns", "function"])
def test_partition_equals_optax_however_the_labels_are_given(labels):
    ours = partition({"slow": gradlab.adam(0.1), "fast": gradlab.sgd(1.0, momentum=0.9)}, labels)
    theirs = optax.partition(
        {"slow": optax.adam(0.1), "fast": optax.sgd(1.0, momentum=0.9)}, _labels_of if labels is RULES else LABELS
    )
    _same_run(ours, theirs)


@pytest.mark.parametrize("mask", ["embed|kernel", MASK])
def test_freeze_zeroes_what_the_mask_selects_and_nothing_else(mask):
    (updates,), _ = _run(gradlab.chain(gradlab.scale(2.0), freeze(mask)), 1)
    assert not np.any(updates["embed"]["table"]) and not np.any(updates["dense"]["kernel"])
    chex.assert_trees_all_equal(updates["dense"]["bias"], 2 * GRADS["dense"]["bias"])
    chex.assert_trees_all_equal(updates["head"], jax.tree.map(lambda g: 2 * g, GRADS["head"]))
    _same_run(freeze(mask), optax.freeze(MASK))


def test_a_single_bool_masks_all_or_nothing():
    chex.assert_trees_all_equal(_run(freeze(False), 1)[0][0], GRADS)
    assert not any(np.any(u) for u in jax.tree.leaves(_run(freeze(True), 1)[0][0]))


def test_set_to_zero_forgets_nan_and_keeps_dtype():
    updates, _ = set_to_zero().update({"a": jnp.array([jnp.nan, 1], "bfloat16"), "b": None}, optax.EmptyState())
    assert updates["a"].tolist() == [0.0, 0.0] and updates["a"].dtype == jnp.bfloat16 and updates["b"] is None


def test_patterns_are_searched_in_the_whole_path_and_anchored_by_the_user():
    params = {"a": {"ab": 0.0}, "b": {"a": 0.0}}
    found = lambda pattern: jax.tree.leaves(_run(freeze(pattern), 1, params, jax.tree.map(lambda _: 1.0, params))[0][0])
    assert (
        found("a") == [0.0, 0.0]
        and found("^a") == [0.0, 1.0]
        and found("a$") == [1.0, 0.0]
        and found("a/ab") == [0.0, 1.0]
    )


def test_frozen_dicts_are_parameters_like_any_other():
    params, grads = FrozenDict(PARAMS), FrozenDict(GRADS)
    for tx in (
        masked(gradlab.adam(0.1), "kernel"),
        masked(gradlab.adam(0.1), FrozenDict(MASK)),
        partition({"slow": gradlab.adam(0.1), "fast": gradlab.sgd(1.0)}, RULES),
        partition({"slow": gradlab.adam(0.1), "fast": gradlab.sgd(1.0)}, FrozenDict(LABELS)),
    ):
        (updates,), state = _run(tx, 1, params, grads)
        assert isinstance(updates, FrozenDict)
        chex.assert_trees_all_equal_structs(state, tx.init(params))
    plain = _run(masked(gradlab.adam(0.1), "kernel"), 1)[0][0]
    chex.assert_trees_all_equal(_run(masked(gradlab.adam(0.1), "kernel"), 1, params, grads)[0][0].unfreeze(), plain)


def test_a_norm_inside_a_partition_is_that_of_its_group():
    tx = partition({"slow": gradlab.clip_by_global_norm(1.0), "fast": gradlab.identity()}, RULES)
    (updates,), _ = _run(tx, 1)
    slow = [GRADS["embed"]["table"], GRADS["dense"]["bias"]]
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in slow))
    np.testing.assert_allclose(updates["embed"]["table"], slow[0] / norm, rtol=1e-12)
    np.testing.assert_allclose(updates["dense"]["bias"], slow[1] / norm, rtol=1e-12)
    chex.assert_trees_all_equal(updates["head"], GRADS["head"])


def test_masks_nest_in_partitions():
    decay = {"embed": True, "dense": {"kernel": True, "bias": False}, "head": True}
    ours = partition({"slow": gradlab.adamw(0.1, weight_decay=0.5, mask=decay), "fast": gradlab.sgd(1.0)}, LABELS)
    theirs = optax.partition({"slow": optax.adamw(0.1, weight_decay=0.5, mask=decay), "fast": optax.sgd(1.0)}, LABELS)
    _same_run(ours, theirs)
    by_pattern = gradlab.adamw(0.1, weight_decay=0.5, mask="table")
    _same_run(partition({"slow": by_pattern, "fast": gradlab.sgd(1.0)}, LABELS), theirs)


def test_partitions_nest_in_partitions():
    def build(library):
        inner = library.partition({"x": library.adam(0.1), "y": library.sgd(0.5, momentum=0.9)}, _inner_labels)
        return library.partition({"slow": inner, "fast": library.sgd(1.0)}, LABELS)

    _same_run(build(gradlab), build(optax))


def _inner_labels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: "x" if "embed" in str(path) else "y", params)


def test_a_prefix_mask_works_in_a_group_without_parameters():
    inner = masked(gradlab.adam(0.1), {"embed": False, "dense": True, "head": True})
    tx = partition({"none": inner, "all": gradlab.scale(2.0)}, lambda params: jax.tree.map(lambda _: "all", params))
    seen, state = _run(tx, 2)
    chex.assert_trees_all_equal(seen[1], jax.tree.map(lambda g: 2 * g, GRADS))
    chex.assert_trees_all_equal_structs(state, tx.init(PARAMS))


def _compare_update(grads, state, params=None, *, grad, **extra):
    return jax.tree.map(lambda u, raw: jnp.where(u == 2 * raw, 1.0, 0.0), grads, grad), state


def test_the_raw_gradient_that_a_chain_supplies_is_masked_with_the_rest():
    compare = gradlab.transform(lambda params: optax.EmptyState(), _compare_update)
    tx = gradlab.chain(gradlab.scale(2.0), partition({"slow": compare, "fast": set_to_zero()}, LABELS))
    (updates,), _ = _run(tx, 1)
    assert np.all(updates["embed"]["table"] == 1) and np.all(updates["dense"]["bias"] == 1) and updates["head"][1] == 0


def _tagged_update(grads, state, params=None, *, tags, **extra):
    return jax.tree.map(jnp.multiply, grads, tags), state


def test_extra_arguments_like_the_updates_are_masked_on_request():
    tagged = gradlab.transform(lambda params: optax.EmptyState(), _tagged_update)
    tags = jax.tree.map(lambda g: 3.0, GRADS)
    tx = masked(tagged, MASK, mask_compatible_extra_args=True)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, tags=tags)
    chex.assert_trees_all_equal(
        updates["dense"], {"kernel": 3 * GRADS["dense"]["kernel"], "bias": GRADS["dense"]["bias"]}
    )
    with pytest.raises(ValueError):
        masked(tagged, MASK).update(GRADS, tx.init(PARAMS), PARAMS, tags=tags)


def test_learning_rates_by_subtree_inside_a_mask():
    tx = masked(gradlab.sgd({"embed": 0.1, "dense": 0.01, "head": 1.0}), ["embed", "bias"])
    (updates,), _ = _run(tx, 1)
    np.testing.assert_allclose(updates["embed"]["table"], -0.1 * GRADS["embed"]["table"], rtol=1e-12)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.01 * GRADS["dense"]["bias"], rtol=1e-12)
    chex.assert_trees_all_equal(updates["dense"]["kernel"], GRADS["dense"]["kernel"])


@pytest.mark.parametrize(
    "tx",
    [
        masked(gradlab.adam(0.1), "kernel"),
        masked(gradlab.adam(0.1), MASK),
        partition({"slow": gradlab.adam(0.1), "fast": masked(gradlab.adam(1.0), ["dense", "head"])}, RULES),
        partition({"slow": gradlab.adam(0.1), "fast": gradlab.sgd(1.0, momentum=0.9)}, LABELS),
    ],
)
def test_optax_map_params_finds_the_buffers(tx):
    state = tx.init(PARAMS)
    mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, state, transform_non_params=lambda leaf: leaf)
    chex.assert_trees_all_equal_structs(mapped, state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(mapped):
        expected = 0 if "count" in jax.tree_util.keystr(path) else 1
        assert np.all(np.asarray(leaf) == expected)


def test_without_parameters_in_update_the_gradients_are_labelled():
    tx = partition({"slow": gradlab.scale(2.0), "fast": gradlab.scale(3.0)}, RULES)
    updates, _ = tx.update(GRADS, tx.init(PARAMS))
    chex.assert_trees_all_equal(updates["head"], jax.tree.map(lambda g: 3 * g, GRADS["head"]))


def test_lanes_and_values_pass_through_routes():
    def make(learning_rate):
        return partition({"slow": gradlab.scale(1.0), "fast": gradlab.sgd(learning_rate)}, RULES)

    jitted = jax.jit(chex.assert_max_traces(lambda tx: tx.update(GRADS, tx.init(PARAMS), PARAMS)[0], n=1))
    for rate in (0.1, 0.2):
        np.testing.assert_allclose(jitted(make(rate))["head"][1], -rate * GRADS["head"][1], rtol=1e-12)
    lanes = jax.vmap(make)(jnp.array([0.1, 0.2]))
    updates = jax.vmap(lambda tx: tx.update(GRADS, tx.init(PARAMS), PARAMS)[0])(lanes)
    np.testing.assert_allclose(updates["head"][1], -jnp.array([0.1, 0.2]) * GRADS["head"][1], rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: masked(gradlab.identity(), "kernels"), r"patterns \['kernels'\] match no parameter.*'dense/kernel'"),
        (lambda: masked(gradlab.identity(), {"embed": True}), r"mask has the leaves \['embed'\].*'dense/kernel'"),
        (
            lambda: partition({"slow": gradlab.identity()}, LABELS),
            "parameter 'dense/kernel' has the label 'fast', for which there is no transform.*'slow'",
        ),
        (
            lambda: partition({"a": gradlab.identity()}, by_path(("embed", "a"))),
            r"no pattern matches parameter 'dense/bias'; the patterns are \['embed'\]",
        ),
        (
            lambda: partition({"a": gradlab.identity()}, by_path((".", "a"), ("embed", "a"))),
            r"patterns \['embed'\] decide for no parameter",
        ),
    ],
)
def test_choices_that_do_not_fit_the_parameters_name_the_paths(build, message):
    tx = build()
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


def test_labels_that_are_no_prefix_of_the_parameters_are_refused():
    tx = partition({"slow": gradlab.adam(0.1)}, {"embed": "slow"})
    with pytest.raises(ValueError, match=r"labels.*\['embed'\].*'dense/kernel'"):
        tx.init(PARAMS)


@pytest.mark.parametrize("make", [lambda: by_path(("(", "a")), lambda: freeze("("), lambda: freeze(["a", "*"])])
def test_what_is_no_regular_expression_is_refused_when_it_is_given(make):
    with pytest.raises(ValueError, match="is no regular expression for a parameter path"):
        make()


@pytest.mark.parametrize("mask", ["embed|kernel", MASK, _mask_of, True, False])
def test_selective_transform_equals_optax_however_the_mask_is_given(mask):
    theirs = mask if mask is MASK or isinstance(mask, bool) else _mask_of(PARAMS)
    _same_run(
        selective_transform(gradlab.adam(0.1), freeze_mask=mask),
        optax.selective_transform(optax.adam(0.1), freeze_mask=theirs),
    )


def test_a_rebuilt_selective_transform_is_the_same_program():
    build = lambda: selective_transform(gradlab.adam(0.1), freeze_mask=MASK)
    assert jax.tree.structure(build()) == jax.tree.structure(build())


def test_mask_leaves_says_of_each_leaf_whether_it_is_selected():
    tree = {"body": {"kernel": 1.0, "frozen": None}, "head": [2.0, 3.0]}
    assert mask_leaves(None, tree) == {"body": {"kernel": True, "frozen": True}, "head": [True, True]}
    assert mask_leaves({"body": True, "head": False}, tree) == {
        "body": {"kernel": True, "frozen": True},
        "head": [False, False],
    }
    assert mask_leaves(["kernel", "head/1"], tree)["head"] == [False, True]
    assert mask_leaves(lambda params: False, tree)["body"]["kernel"] is False
    with pytest.raises(ValueError, match="no prefix of the parameters"):
        mask_leaves({"body": True}, tree)


def test_the_loss_inside_of_a_mask_is_one_of_the_selected_parameters():
    loss = lambda params: jnp.sum((params["w"] - params["b"]) ** 2) + jnp.sum(params["b"] ** 4)
    params = {"w": jnp.array([3.0, -1.0]), "b": jnp.array([1.0, 2.0])}
    tx = masked(gradlab.newton(), "w")
    updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    chex.assert_trees_all_close(params["w"] + updates["w"], params["b"], rtol=1e-12)  # the quadratic in w, solved
    chex.assert_trees_all_equal(updates["b"], jax.grad(loss)(params)["b"])
