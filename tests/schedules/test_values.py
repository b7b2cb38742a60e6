"""The numbers of every schedule: against plain Python, against Optax, and against torch's schedulers."""

from inspect import signature

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab import schedules
from tests.schedules.cases import CASES, CYCLES

OPTAX_CASES = [case for case in CASES if hasattr(optax, case.name)]
OPTAX_NAMES = sorted(
    name
    for name in dir(optax.schedules)
    if name.endswith(("_schedule", "_schedules", "_decay")) and not name.startswith("_")
)


def curve(schedule, steps):
    return np.array([schedule(int(step)) for step in steps])


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_equals_oracle(case):
    expected = np.array([case.oracle(int(step)) for step in case.steps])
    chex.assert_trees_all_close(curve(case.make(schedules), case.steps), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", OPTAX_CASES, ids=repr)
def test_equals_optax(case):
    theirs = case.make(optax)
    expected = jax.vmap(lambda step: jnp.asarray(theirs(step), float))(case.steps)
    chex.assert_trees_all_close(curve(case.make(schedules), case.steps), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_equals_oracle_in_float32(case):
    with jax.enable_x64(False):
        values = curve(case.make(schedules), case.steps)
    expected = np.array([case.oracle(int(step)) for step in case.steps])
    assert values.dtype == np.float32
    chex.assert_trees_all_close(values.astype(float), expected, rtol=3e-5, atol=3e-7)


@pytest.mark.parametrize("name", ["linear_onecycle_schedule", "cosine_onecycle_schedule"])
def test_onecycle_turns_at_the_same_step_as_optax(name):
    steps = np.arange(62)
    for horizon in (7, 10, 20, 40, 58, 60):  # 0.3, 0.29 and 0.85 of these are whole numbers, or nearly
        for pct_start in (0.3, 0.29):
            ours, theirs = (getattr(module, name)(horizon, 1.0, pct_start) for module in (schedules, optax))
            chex.assert_trees_all_close(jax.vmap(ours)(steps), jax.vmap(theirs)(steps), rtol=1e-10)


def test_optax_names_are_all_here_with_optax_arguments():
    assert len(OPTAX_NAMES) == 14
    for name in OPTAX_NAMES:
        ours, theirs = (signature(getattr(module, name)).parameters for module in (schedules, optax))
        assert list(ours) == list(theirs)
        for argument in ours:
            assert ours[argument].default == theirs[argument].default, (name, argument)


def test_every_name_has_a_case():
    assert {case.name for case in CASES} == set(schedules.SCHEDULES)


def test_no_warmup_begins_at_the_peak():
    assert float(schedules.warmup_constant_schedule(0.1, 0.7, 0)(0)) == 0.7
    assert float(schedules.warmup_exponential_decay_schedule(0.1, 0.7, 0, 10, 0.5)(0)) == 0.7


def test_peak_of_zero_still_reaches_the_end_value():
    schedule = schedules.warmup_cosine_decay_schedule(0.2, 0.0, 4, 8, end_value=0.1)
    chex.assert_trees_all_close(curve(schedule, [0, 2, 4, 6, 8]), np.array([0.2, 0.1, 0.0, 0.05, 0.1]), atol=1e-15)


def test_linear_floor_at_the_ends_of_the_decay():
    schedule = schedules.linear_floor_schedule(0.5, 0.005, 300)
    assert [float(schedule(step)) for step in (0, 300, 301, 10**6)] == [0.5, 0.005, 0.005, 0.005]
    assert float(schedule(299)) > 0.005


def torch_curve(count, make, lr):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    values = []
    for step in range(count):
        if step > 0:
            optimizer.step()
            scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return np.array(values)


# ours, torch's, its base learning rate, the number of steps
TORCH_PAIRS = {
    "linear": (
        schedules.linear_schedule(0.1, 0.4, 13),
        lambda torch, optimizer: torch.LinearLR(optimizer, 0.25, 1.0, 13),
        0.4,
        30,
    ),
    "multiply": (
        schedules.multiply_schedule(0.4, 0.93),
        lambda torch, optimizer: torch.ExponentialLR(optimizer, 0.93),
        0.4,
        60,
    ),
    "step_decay": (
        schedules.step_decay_schedule(0.4, 0.3, 7),
        lambda torch, optimizer: torch.StepLR(optimizer, 7, 0.3),
        0.4,
        60,
    ),
    "exponential staircase": (
        schedules.exponential_decay(0.4, 7, 0.3, staircase=True),
        lambda torch, optimizer: torch.StepLR(optimizer, 7, 0.3),
        0.4,
        60,
    ),
    "piecewise_constant": (
        schedules.piecewise_constant_schedule(0.4, {5: 0.2, 11: 0.2, 30: 0.2}),
        lambda torch, optimizer: torch.MultiStepLR(optimizer, [5, 11, 30], 0.2),
        0.4,
        40,
    ),
    "polynomial": (
        schedules.polynomial_schedule(0.4, 0.0, 1.7, 23),
        lambda torch, optimizer: torch.PolynomialLR(optimizer, 23, 1.7),
        0.4,
        30,
    ),
    "cosine_decay": (
        schedules.cosine_decay_schedule(0.4, 25, alpha=0.1),
        lambda torch, optimizer: torch.CosineAnnealingLR(optimizer, 25, eta_min=0.04),
        0.4,
        26,
    ),
    "sgdr": (
        schedules.sgdr_schedule(
            [
                {"init_value": 0.4, "peak_value": 0.4, "warmup_steps": 0, "decay_steps": 6 * 2**i, "end_value": 0.02}
                for i in range(4)
            ]
        ),
        lambda torch, optimizer: torch.CosineAnnealingWarmRestarts(optimizer, 6, 2, eta_min=0.02),
        0.4,
        90,
    ),
    # torch ends its phases at pct * total_steps - 1 and total_steps - 1, so one step more is the same curve
    "cosine_onecycle": (
        schedules.cosine_onecycle_schedule(40, 0.9, 0.3, 5.0, 50.0),
        lambda torch, optimizer: torch.OneCycleLR(
            optimizer, 0.9, total_steps=41, pct_start=13 / 41, div_factor=5.0, final_div_factor=50.0
        ),
        0.9,
        41,
    ),
    "linear_onecycle": (
        schedules.linear_onecycle_schedule(40, 0.9, 0.3, 0.6, 5.0, 50.0),
        lambda torch, optimizer: torch.OneCycleLR(
            optimizer,
            0.9,
            total_steps=41,
            pct_start=13 / 41,
            div_factor=5.0,
            final_div_factor=50.0,
            anneal_strategy="linear",
            three_phase=True,
        ),
        0.9,
        41,
    ),
    "join": (
        schedules.join_schedules([schedules.linear_schedule(0.04, 0.4, 8), schedules.multiply_schedule(0.4, 0.9)], [8]),
        lambda torch, optimizer: torch.SequentialLR(
            optimizer, [torch.LinearLR(optimizer, 0.1, 1.0, 8), torch.ExponentialLR(optimizer, 0.9)], [8]
        ),
        0.4,
        40,
    ),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", TORCH_PAIRS)
def test_equals_torch(name):
    schedule, make, lr, count = TORCH_PAIRS[name]
    expected = torch_curve(count, make, lr)
    chex.assert_trees_all_close(curve(schedule, range(count)), expected, rtol=1e-9, atol=1e-14)


def test_sgdr_restarts_where_the_last_cycle_ended():
    schedule = schedules.sgdr_schedule(CYCLES)
    assert [round(float(schedule(step)), 12) for step in (9, 23, 34)] == [0.5, 0.05, 0.01]
