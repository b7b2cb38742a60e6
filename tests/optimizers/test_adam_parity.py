"""The Adam family step by step beside Optax (states too) and PyTorch, on the same gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.optimizers.adam import adam, adamw
from gradlab.optimizers.adamax import adamax, adamaxw
from gradlab.optimizers.amsgrad import amsgrad
from gradlab.optimizers.nadam import nadam, nadamw
from gradlab.optimizers.radam import radam
from gradlab.optimizers.sadam import scale_by_sadam
from gradlab.transforms.decay import add_decayed_weights
from tests.trajectories import mixed_grads, mixed_tree, run, run_torch

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}


def falling(count):
    return 0.1 / (1 + count)


OPTAX_MODES = [
    (adam, {}),
    (adam, {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}),
    (adam, {"nesterov": True}),
    (adam, {"learning_rate": falling}),
    (adamw, {}),
    (adamw, {"weight_decay": 0.1, "mask": BIASES, "nesterov": True}),
    (adamw, {"weight_decay": 0.1, "mask": lambda params: jax.tree.map(lambda p: p.ndim == 1, params)}),
    (nadam, {}),
    (nadamw, {"weight_decay": 0.1}),
    (amsgrad, {}),
    (amsgrad, {"b2": 0.9, "eps_root": 1e-4, "bias_correction_mu": False}),
    (amsgrad, {"b2": 0.9, "bias_correction_nu": False}),
    (amsgrad, {"b2": 0.9, "bias_correction_mu": False, "bias_correction_nu": False}),
    (adamax, {}),
    (adamax, {"b1": 0.5, "b2": 0.9, "eps": 1e-3}),
    (adamaxw, {"weight_decay": 0.1, "mask": BIASES, "learning_rate": falling}),
    (radam, {}),
    (radam, {"b2": 0.9, "threshold": 4.0, "eps": 1e-3, "eps_root": 1e-4}),
    (radam, {"b2": 0.99, "threshold": 20.0, "nesterov": True}),
]


@pytest.mark.parametrize("make, mode", OPTAX_MODES, ids=lambda value: getattr(value, "__name__", None))
def test_positions_and_states_are_those_of_optax(make, mode):
    mode = {"learning_rate": LR} | mode
    params, grads = mixed_tree(), mixed_grads()
    ours = run(make(**mode), params, grads)
    optaxs = run(getattr(optax, make.__name__)(**mode), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])


@pytest.mark.parametrize("dtype, rtol", [("complex64", 2e-5), ("complex128", 1e-11)])
@pytest.mark.parametrize("make", [adam, nadam, adamw, amsgrad, adamax, radam], ids=lambda make: make.__name__)
def test_complex_parameters_are_moved_as_optax_moves_them(make, dtype, rtol):
    dtype = np.dtype(dtype).type
    params, grads = mixed_tree(dtype=dtype), mixed_grads(dtype=dtype)
    ours, state = run(make(LR), params, grads)
    optaxs, optax_state = run(getattr(optax, make.__name__)(LR), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=rtol)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, optax_state)


@pytest.mark.parametrize("make", [adam, amsgrad, adamax, radam], ids=lambda make: make.__name__)
def test_a_state_of_optax_continues_in_gradlab(make):
    params, grads = mixed_tree(), mixed_grads()
    theirs = getattr(optax, make.__name__)(LR)
    _, state = run(theirs, params, grads)
    last = jax.tree.map(lambda rows: rows[-1], grads)
    chex.assert_trees_all_close(make(LR).update(last, state), jax.jit(theirs.update)(last, state), rtol=1e-10)


def torch_optimizer(name, **options):
    def make(tensors):
        import torch

        return getattr(torch.optim, name)(tensors, **options)

    return make


COUPLED = {"weight_decay": 0.1, "decay": "coupled"}
TORCH_MODES = [
    (adam(LR), torch_optimizer("Adam", lr=LR)),
    (adam(LR, 0.5, 0.9, 1e-3), torch_optimizer("Adam", lr=LR, betas=(0.5, 0.9), eps=1e-3)),
    (adamw(LR, **COUPLED), torch_optimizer("Adam", lr=LR, weight_decay=0.1)),
    (adamw(LR, weight_decay=0.1), torch_optimizer("AdamW", lr=LR, weight_decay=0.1)),
    (amsgrad(LR, max_of="nu"), torch_optimizer("Adam", lr=LR, amsgrad=True)),
    (
        amsgrad(LR, b2=0.9, eps=1e-3, max_of="nu"),
        torch_optimizer("Adam", lr=LR, betas=(0.9, 0.9), eps=1e-3, amsgrad=True),
    ),
    (adamax(LR), torch_optimizer("Adamax", lr=LR)),
    (
        adamaxw(LR, b2=0.9, eps=1e-3, **COUPLED),
        torch_optimizer("Adamax", lr=LR, betas=(0.9, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    (radam(LR, eps_on="nu"), torch_optimizer("RAdam", lr=LR)),
    (radam(LR, b2=0.9, eps=1e-3, eps_on="nu"), torch_optimizer("RAdam", lr=LR, betas=(0.9, 0.9), eps=1e-3)),
    (chain(add_decayed_weights(0.1), radam(LR, eps_on="nu")), torch_optimizer("RAdam", lr=LR, weight_decay=0.1)),
]


@pytest.mark.peers
@pytest.mark.parametrize("tx, make", TORCH_MODES, ids=range(len(TORCH_MODES)))
def test_positions_are_those_of_torch(tx, make):
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(tx, params, grads)
    chex.assert_trees_all_close(ours, run_torch(make, params, grads), rtol=1e-10, atol=1e-13)


@pytest.mark.peers
def test_nadam_is_torchs_once_its_schedule_of_b1_has_ended():
    """PyTorch takes b1 * (1 - 0.96^(t * momentum_decay) / 2) for b1: b1 itself when momentum_decay is huge."""
    import torch

    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(nadam(LR), params, grads)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which it keeps the product of its momenta
    try:
        settled = run_torch(torch_optimizer("NAdam", lr=LR, momentum_decay=1e6), params, grads)
        scheduled = run_torch(torch_optimizer("NAdam", lr=LR), params, grads)
    finally:
        torch.set_default_dtype(default)
    chex.assert_trees_all_close(ours, settled, rtol=1e-10, atol=1e-13)
    assert np.max(np.abs(ours - scheduled)[0]) > 0.1 * LR


@pytest.mark.peers
def test_the_denominator_of_sadam_is_torchs_softplus():
    import torch

    gradients = np.concatenate([np.geomspace(1e-12, 100.0, 200), 0.4 + np.linspace(-1e-3, 1e-3, 21)])
    tx = scale_by_sadam(b1=0.0, b2=0.0)
    updates, _ = tx.update(jnp.asarray(gradients), tx.init(jnp.zeros_like(gradients)))
    denominators = torch.nn.Softplus(beta=50)(torch.tensor(gradients)).numpy()
    np.testing.assert_allclose(gradients / np.asarray(updates), denominators, rtol=1e-14)


def test_float32_radam_of_optax_rectifies_steps_that_have_no_variance_yet():
    """At b2 = 0.9999 the first five steps move by the gradient itself; Optax's rho cancels and calls them rectified."""
    with jax.enable_x64(False):
        ones = jnp.ones(1, jnp.float32)
        steps = {}
        for make in (radam, optax.radam):
            tx = make(1e-3, b2=0.9999)
            state, steps[make] = tx.init(ones), []
            for _ in range(5):
                updates, state = tx.update(ones, state)
                steps[make].append(float(updates[0]))
    np.testing.assert_allclose(steps[radam], -1e-3, rtol=1e-5)
    assert abs(steps[optax.radam][1]) < 1e-4
