"""Descendants of Adam step by step beside Optax (states too) and PyTorch, on the same gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.optimizers.ademamix import ademamix
from gradlab.optimizers.adopt import adopt
from gradlab.optimizers.nadam import nadam, nadamw
from gradlab.optimizers.simplified_ademamix import simplified_ademamix
from gradlab.schedules import ademamix_alpha_schedule, ademamix_b3_schedule, linear_schedule
from tests.trajectories import mixed_grads, mixed_tree, run, run_torch

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}


def falling(count):
    return 0.1 / (1 + count)


def square_root(count):
    return count**0.5


OPTAX_MODES = [
    (ademamix, {}),
    (ademamix, {"b1": 0.5, "b2": 0.9, "b3": 0.99, "alpha": 2.0, "eps": 1e-3, "eps_root": 1e-4}),
    (ademamix, {"alpha": ademamix_alpha_schedule(8.0, 30), "b3": ademamix_b3_schedule(0.9, 0.999, 30, first=0)}),
    (ademamix, {"alpha": linear_schedule(0.0, 8.0, 20), "weight_decay": 0.1, "mask": BIASES}),
    (adopt, {"learning_rate": falling}),
    (adopt, {"b1": 0.5, "b2": 0.9, "eps": 0.1, "nesterov": True}),
    (adopt, {"b2": 0.9, "use_clipping": False}),
    (adopt, {"b2": 0.99, "clip_value_fn": square_root}),
    (simplified_ademamix, {"learning_rate": falling}),
    (simplified_ademamix, {"b1": 0.9, "b2": 0.999, "alpha": 2.0, "eps": 1e-3, "eps_root": 1e-4}),
    (simplified_ademamix, {"alpha": linear_schedule(0.0, 8.0, 20), "weight_decay": 0.1, "mask": BIASES}),
]


@pytest.mark.parametrize("make, mode", OPTAX_MODES, ids=lambda value: getattr(value, "__name__", None))
def test_positions_and_states_are_those_of_optax(make, mode):
    mode = {"learning_rate": LR} | mode
    params, grads = mixed_tree(), mixed_grads()
    ours = run(make(**mode), params, grads)
    optaxs = run(getattr(optax.contrib, make.__name__)(**mode), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])
    assert jax.tree.structure(ours[1]) == jax.tree.structure(optaxs[1])


def test_ademamix_keeps_its_averages_in_the_dtype_asked_for():
    """Optax starts all three in that dtype, and all three are wide again after one update."""
    params, grads = mixed_tree(), jax.tree.map(lambda rows: rows[0], mixed_grads())
    kinds = {}
    for make in (ademamix, optax.contrib.ademamix):
        tx = make(LR, mu_dtype="bfloat16")
        _, state = jax.eval_shape(tx.update, grads, tx.init(params), params)
        kinds[make] = {
            name: {leaf.dtype.name for leaf in jax.tree.leaves(getattr(state[0], name))} for name in ("m1", "m2", "nu")
        }
    assert kinds[ademamix] == {"m1": {"bfloat16"}, "m2": {"bfloat16"}, "nu": {"float64"}}
    assert kinds[optax.contrib.ademamix] == {name: {"float64"} for name in ("m1", "m2", "nu")}


def test_simplified_ademamix_descends_along_a_complex_gradient_and_optax_does_not():
    """Optax squares g where the length of g is meant: along 1j it divides by sqrt(-1)."""
    grads, params = jnp.array([1j]), jnp.zeros(1, jnp.complex128)
    steps = []
    for make in (simplified_ademamix, optax.contrib.simplified_ademamix):
        tx = make(LR)
        steps.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_allclose(steps[0], [-LR * 1j], rtol=1e-7)
    np.testing.assert_allclose(steps[1], [-LR], rtol=1e-7)


def torch_nadam(**options):
    def make(tensors):
        import torch

        return torch.optim.NAdam(tensors, lr=LR, **options)

    return make


COUPLED = {"weight_decay": 0.1, "decay": "coupled"}
TORCH_MODES = [
    (nadam(LR, form="torch"), torch_nadam()),
    (
        nadam(LR, 0.5, 0.9, 1e-3, form="torch", momentum_decay=0.5),
        torch_nadam(betas=(0.5, 0.9), eps=1e-3, momentum_decay=0.5),
    ),
    (nadamw(LR, form="torch", **COUPLED), torch_nadam(weight_decay=0.1)),
    (
        nadamw(LR, form="torch", weight_decay=0.1),
        torch_nadam(weight_decay=0.1, decoupled_weight_decay=True),
    ),
]


@pytest.mark.peers
@pytest.mark.parametrize("tx, make", TORCH_MODES, ids=range(len(TORCH_MODES)))
def test_nadam_is_torchs(tx, make):
    import torch

    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(tx, params, grads)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which it keeps the product of its momenta
    try:
        theirs = run_torch(make, params, grads)
    finally:
        torch.set_default_dtype(default)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-10, atol=1e-13)
